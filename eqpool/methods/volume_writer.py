"""Writes the harmonised volumes of one call, in the form and with the sign that its config asks for."""

import pathlib
from collections.abc import Sequence

import numpy as np

from eqpool import __version__
from eqpool.config import OutputConfig, keeps_sign
from eqpool.data.volumes.inputs import Grid, ImageFacts
from eqpool.data.volumes.intensity_scale import CommonScale
from eqpool.methods.base import Say
from eqpool.methods.derivatives import (
    Clipped,
    check_not_inputs,
    derivative_paths,
    read_source,
    say_clipped,
    write_change,
    write_decoded,
    write_description,
    write_jacobian,
)


def origin_of(simulated: bool) -> str:
    """Returns the end of the data set's name for networks that were trained on simulated images, else ""."""
    return ", by networks trained on SIMULATED images" if simulated else ""


class VolumeWriter:
    """Writes harmonised volumes under one folder and counts the voxels that are set to 0. Threads may share it."""

    def __init__(
        self,
        folder: pathlib.Path,
        names: Sequence[str],
        sources: Sequence[pathlib.Path],
        root: pathlib.Path,
        grid: Grid,
        output: OutputConfig,
        *,
        form: str,
        by: str = "",
        origin: str = "",
        scale: CommonScale | None = None,
    ):
        """Writes the folder's dataset_description.json.

        Args:
          folder: folder of the derivative.
          names: (N,) names of all rows, by `eqpool.data.volumes.bids_names`.
          sources: (N,) image of each row.
          root: folder of the sources' data set.
          grid: grid of the volumes.
          output: decides whether values keep the input's sign (`keep_sign`).
          form: "change" adds the change to the input; "decoded" replaces the input.
          by: prefix of the form's description, such as "istn_".
          origin: end of the data set's name.
          scale: intensity scale of the written volumes; None for the units of each source.

        Raises:
          InputError: an output path is an input.
        """
        self._paths, self._sources, self._root, self._grid = derivative_paths(folder, names), sources, root, grid
        self._form, self._keep_sign = form, keeps_sign(output, on_volumes=True)
        self._scale = scale
        self._clipped: list[Clipped] = []
        check_not_inputs(self._paths, sources)
        write_description(folder, __version__, harmonised=f"{by}{form}", origin=origin, scale=scale)

    def write(
        self,
        row: int,
        change: np.ndarray,
        replacement: np.ndarray,
        facts: ImageFacts,
        jacobian: np.ndarray | None = None,
    ) -> None:
        """Reads a row's source once, and writes its volume and, beside it, its deformation's Jacobian determinant.

        Args:
          row: number of the row.
          change: `grid.shape`, z-scores of the input's tissue, which the form "change" adds to the input.
          replacement: `grid.shape`, z-scores of the input's tissue, which the form "decoded" writes.
          facts: facts of the source, from its preparation.
          jacobian: `grid.shape`, None without a deformation.

        Raises:
          BadVolumeError: the source can no longer be read.
        """
        source = read_source(self._sources[row], facts, self._root)
        write, volume = (write_change, change) if self._form == "change" else (write_decoded, replacement)
        path, keep_sign = self._paths[row], self._keep_sign
        self._clipped.append(write(source, volume, self._grid, path, keep_sign=keep_sign, scale=self._scale))
        if jacobian is not None:
            write_jacobian(source, jacobian, self._grid, path)

    def report(self, say: Say) -> None:
        """Reports through `say` how many voxels were set to 0, if any were."""
        say_clipped(self._clipped, say)
