"""Streams volumes through the decoder chain: encode, pool and decode."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from eqpool.config import RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.tables.scaling import decoded_change
from eqpool.data.volumes.inputs import Grid, ImageFacts
from eqpool.data.volumes.intensity_scale import CommonScale
from eqpool.methods.base import Outputs
from eqpool.methods.derivatives import to_z_scores
from eqpool.methods.volume_writer import VolumeWriter


class EncoderDecoder(Protocol):
    """The chain from a volume to its latents and back, such as `eqpool.methods.latent_model.LatentModel`."""

    @property
    def config(self) -> RunConfig:
        """The config of the run."""
        ...

    @property
    def grid(self) -> Grid | None:
        """The grid of the volumes."""
        ...

    @property
    def encode(self) -> Callable[[np.ndarray], Outputs]:
        """Maps volumes to `latent`, `phi`, `prediction`, and `pooled_latent` if the chain decodes."""
        ...

    @property
    def decode(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """Maps latents to volumes; None if Phi cannot be decoded."""
        ...

    @property
    def change_scale(self) -> float:
        """The factor on the change of the decode by pooling."""
        ...

    @property
    def scale(self) -> CommonScale | None:
        """The intensity scale of written volumes; None for the units of each scan."""
        ...


class Pooled(NamedTuple):
    """One row in the chain, with volumes in z-scores of its own tissue.

    Attributes:
      row: row number in the caller's table.
      inputs: the prepared volume.
      outputs: this row's outputs of `EncoderDecoder.encode`.
      original, pooled: D(l) and D(Psi(Phi(l))); None for a baseline.
      calibrated: the volume after the site calibration, which was encoded; None without a calibration.
      change_scale: factor on the change of the decode, of `EncoderDecoder`.
    """

    row: int
    inputs: np.ndarray
    outputs: Outputs
    original: np.ndarray | None
    pooled: np.ndarray | None
    calibrated: np.ndarray | None = None
    change_scale: float = 1.0

    @property
    def before_networks(self) -> np.ndarray:
        """The volume that was encoded: the calibrated one if there is a site calibration."""
        return self.inputs if self.calibrated is None else self.calibrated

    @property
    def networks_change(self) -> np.ndarray:
        """The change of the decode by pooling, scaled."""
        assert self.original is not None and self.pooled is not None
        return decoded_change(self.original, self.pooled, self.change_scale)

    @property
    def change(self) -> np.ndarray:
        """The change of the site calibration, if there is one, plus that of the networks."""
        return self.before_networks - self.inputs + self.networks_change

    def handed_back(self, form: str) -> np.ndarray:
        """Returns the volume in the form that is written; "none" counts as "change"."""
        assert self.pooled is not None
        return self.pooled if form == "decoded" else self.inputs + self.change

    def write(self, writer: VolumeWriter, facts: ImageFacts) -> None:
        """Writes the row's volume, whose image has these facts."""
        assert self.pooled is not None
        writer.write(self.row, self.change, self.pooled, facts)


def padded_batches(volumes: Iterable[tuple[int, np.ndarray]], size: int = 8) -> Iterator[tuple[list[int], np.ndarray]]:
    """Gathers (row, volume) pairs into (rows, inputs (`size`, *shape) float32), in order.

    The last batch is padded with zeros, so that a network is compiled once. Memory use is a few times `size` volumes.
    """
    remaining = iter(volumes)
    while batch := list(itertools.islice(remaining, size)):
        inputs = np.zeros((size, *batch[0][1].shape), np.float32)
        for place, (_, volume) in enumerate(batch):
            inputs[place] = volume
        yield [row for row, _ in batch], inputs


class PreparedRow(NamedTuple):
    """One row before the chain.

    Attributes:
      row: row number in the caller's table.
      prepared: the prepared volume.
      calibrated: the volume after the site calibration; None without a calibration.
    """

    row: int
    prepared: np.ndarray
    calibrated: np.ndarray | None = None


def prepared_rows(cohort: Cohort, rows: Iterable[int]) -> Iterator[PreparedRow]:
    """Reads rows of a cohort of volumes."""
    assert cohort.volumes is not None
    for row in rows:
        calibrated = None if cohort.volumes.prepared is None else cohort.inputs[row]
        yield PreparedRow(row, cohort.uncalibrated[row], calibrated)


def pool_volumes(trained: EncoderDecoder, volumes: Iterable[PreparedRow]) -> Iterator[Pooled]:
    """Applies encoder and decoder to volumes, in order, one batch at a time."""
    squash = trained.config.data.squash
    waiting: dict[int, PreparedRow] = {}

    def encoded() -> Iterator[tuple[int, np.ndarray]]:
        for one in volumes:
            waiting[one.row] = one
            yield one.row, one.prepared if one.calibrated is None else one.calibrated

    for rows, inputs in padded_batches(encoded()):
        outputs = trained.encode(inputs)
        decoded: list[Any] = [None, None]
        if trained.decode is not None:
            decoded = [to_z_scores(trained.decode(outputs[name]), squash) for name in ("latent", "pooled_latent")]
        for place, row in enumerate(rows):
            original, pooled = (None if volumes is None else volumes[place] for volumes in decoded)
            own = {name: values[place] for name, values in outputs.items()}
            given = waiting.pop(row)
            calibrated = None if given.calibrated is None else to_z_scores(given.calibrated, squash)
            before = to_z_scores(given.prepared, squash)
            yield Pooled(row, before, own, original, pooled, calibrated, trained.change_scale)
