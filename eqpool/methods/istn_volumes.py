"""Writes an ISTN's output for volumes: S2T and, with an STN, the Jacobian of its deformation."""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import RunConfig
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.intensity_scale import CommonScale
from eqpool.data.volumes.parallel import in_parallel
from eqpool.data.volumes.preparation import PreparedScan
from eqpool.methods.derivatives import to_z_scores
from eqpool.methods.istn_steps import trace_steps
from eqpool.methods.volume_writer import VolumeWriter, origin_of
from eqpool.storage.run_folder import RunFolder


class Harmonised(NamedTuple):
    """One volume harmonised by an ISTN.

    Attributes:
      image: S2T, `grid.shape` float32 in [-1, 1].
      jacobian: `grid.shape` float32, det d(position in the source) / d(position in S2T). It is 1 without deformation,
        and 2 if the source was shrunk to half its volume. None without an STN.
    """

    image: np.ndarray
    jacobian: np.ndarray | None


Harmonise = Callable[[np.ndarray, int], Harmonised]


def make_harmonise(config: RunConfig, variables: Any, num_sites: int) -> Harmonise:
    """Makes the function (volume of the config's grid in [-1, 1], index of its site) -> its `Harmonised` volume."""

    @jax.jit
    def apply(variables: Any, image: jax.Array, site: jax.Array) -> dict[str, jax.Array]:
        steps = trace_steps(config, variables, image[None], site[None], num_sites)
        return {name: steps[name][0] for name in ("image", "jacobian") if name in steps}

    def harmonise(volume: np.ndarray, site: int) -> Harmonised:
        made = jax.device_get(apply(variables, jnp.asarray(volume), jnp.int32(site)))
        return Harmonised(made["image"], made.get("jacobian"))

    return harmonise


def write_harmonised(
    output: RunFolder,
    config: RunConfig,
    harmonise: Harmonise,
    scans: Iterable[PreparedScan],
    total: int,
    sites: np.ndarray,
    sources: list[pathlib.Path],
    root: pathlib.Path,
    names: Sequence[str],
    simulated: bool,
    scale: CommonScale | None,
    say: Callable[[str], None] = lambda text: None,
) -> list[int]:
    """Writes every scan's S2T under `output`/derivatives/eqpool, on the input's voxels.

    Without an STN the result is the input plus the change of its appearance. An STN moves the anatomy itself, so S2T
    then replaces the input at the resolution of the config's grid, and the Jacobian is written beside it.

    Args:
      output: output folder, created if missing.
      config: config of the run.
      harmonise: function by `make_harmonise`.
      scans: some or all rows of the table, consumed a few at a time.
      total: number of scans.
      sites: (N,) site index of each row.
      sources: image of each row of the table.
      root: data set of the sources.
      names: (N,) names of all rows, by `eqpool.data.volumes.bids_names`.
      simulated: whether the networks were trained on simulated images, which the description then says.
      scale: intensity scale of what is written; None for the units of each input.
      say: receives a line on the voxels set to 0 (`config.output.keep_sign`), if any.

    Returns:
      The rows that were written.

    Raises:
      InputError: an output is an input, or cannot be written.
    """
    squash = config.data.squash
    writer = VolumeWriter(
        output.derivatives,
        names,
        sources,
        root,
        named_grid(config.data.grid),
        config.output,
        form="change" if config.istn.shape == "none" else "decoded",
        by="istn_",
        origin=origin_of(simulated),
        scale=scale,
    )

    def write(made: tuple[PreparedScan, Harmonised]) -> int:
        scan, harmonised = made
        before, after = to_z_scores(scan.volume, squash), to_z_scores(harmonised.image, squash)
        writer.write(scan.row, after - before, after, scan.facts, harmonised.jacobian)
        return scan.row

    stream = ((scan, harmonise(scan.volume, int(sites[scan.row]))) for scan in scans)
    with in_parallel(
        write, stream, workers=config.data.workers, progress=True, label="Harmonising", total=total
    ) as results:
        written = list(results)
    writer.report(say)
    return written
