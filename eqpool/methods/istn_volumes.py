"""Writes an ISTN's output for volumes: S2T and, with an STN, the Jacobian of its deformation."""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eqpool import __version__
from eqpool.config import RunConfig, keeps_sign
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.prepare import PreparedScan, in_parallel
from eqpool.methods.derivatives import (
    Clipped,
    check_not_inputs,
    derivative_paths,
    say_clipped,
    to_z_scores,
    write_change,
    write_decoded,
    write_description,
    write_jacobian,
)
from eqpool.methods.istn_steps import trace_steps
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
    say: Callable[[str], None] = lambda text: None,
) -> list[int]:
    """Writes every scan's S2T under `output`/derivatives/eqpool, on the input's voxels and in its units.

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
      say: receives a line on the voxels set to 0 (`config.output.keep_sign`), if any.

    Returns:
      The rows that were written.

    Raises:
      InputError: an output is an input, or cannot be written.
    """
    grid, squash = named_grid(config.data.grid), config.data.squash
    paths = derivative_paths(output.derivatives, names)
    check_not_inputs(paths, sources)
    form = "change" if config.istn.shape == "none" else "decoded"
    keep_sign = keeps_sign(config.output, on_volumes=True)
    origin = ", by networks trained on SIMULATED images" if simulated else ""
    write_description(output.derivatives, __version__, harmonised=f"istn_{form}", origin=origin)

    def write(made: tuple[PreparedScan, Harmonised]) -> tuple[int, Clipped]:
        scan, harmonised = made
        source, path, image = sources[scan.row], paths[scan.row], to_z_scores(harmonised.image, squash)
        if form == "change":
            change = image - to_z_scores(scan.volume, squash)
            clipped = write_change(source, change, grid, path, scan.alignment, root=root, keep_sign=keep_sign)
        else:
            clipped = write_decoded(source, image, grid, path, scan.alignment, root=root, keep_sign=keep_sign)
        if harmonised.jacobian is not None:
            write_jacobian(source, harmonised.jacobian, grid, path, scan.alignment, root=root)
        return scan.row, clipped

    stream = ((scan, harmonise(scan.volume, int(sites[scan.row]))) for scan in scans)
    with in_parallel(
        write, stream, workers=config.data.workers, progress=True, label="Harmonising", total=total
    ) as results:
        written = list(results)
    say_clipped([clipped for _, clipped in written], say)
    return [row for row, _ in written]
