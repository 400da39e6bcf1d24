"""A finished run's networks, ready for inputs they never saw: encode, pool, decode."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from eqpool.config import RunConfig
from eqpool.config.check import from_config_dict
from eqpool.data.cohort import Cohort, Grid, Scaling
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.coding import same_labels
from eqpool.data.tables.encoding import FeatureEncoding
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.read import VERSION as PREPARATION
from eqpool.engine.state import Stage, Variables, create_state, make_optimizer
from eqpool.errors import InputError
from eqpool.methods.pooling_chain import make_encode
from eqpool.objectives.baselines import make_baseline
from eqpool.objectives.stage_one import make_decoder, make_stage_one
from eqpool.objectives.stage_two import make_stage_two
from eqpool.storage import files
from eqpool.storage.checkpoints import Checkpoints

CALIBRATION_FILE = "calibration.npz"
LINEAR_DECODER = "linear_decoder.npz"
Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What of the training cohort the networks need later; model.json.

    Attributes:
      dataset, simulated: of the cohort.
      input_shape: one input's shape.
      site_names, covariate_names, target_name, target_classes: as in `Cohort`.
      scaling: of covariates and target.
      features: how a table's columns were encoded; None for volumes and public tables.
      preparation: `eqpool.data.volumes.read.VERSION` by which the volumes were prepared; 0 where none were, or before it was
        recorded.
    """

    dataset: str
    simulated: bool
    input_shape: tuple[int, ...]
    site_names: tuple[str, ...]
    covariate_names: tuple[str, ...]
    target_name: str
    target_classes: tuple[str, ...]
    scaling: Scaling
    features: FeatureEncoding | None
    preparation: int = 0

    @classmethod
    def of(cls, cohort: Cohort, scaling: Scaling) -> "ModelFacts":
        """Those of a cohort."""
        return cls(
            cohort.name,
            cohort.simulated,
            cohort.inputs.shape[1:],
            cohort.site_names,
            cohort.covariate_names,
            cohort.target_name,
            cohort.target_classes,
            scaling,
            cohort.encoding,
            PREPARATION if cohort.grid is not None else 0,
        )

    def check_preparation(self, folder: pathlib.Path) -> None:
        """Raises `InputError` where the run's volumes were prepared by another version; `folder` is named."""
        if len(self.input_shape) == 3 and self.preparation != PREPARATION:
            before = f"version {self.preparation}" if self.preparation else "an earlier version"
            raise InputError(
                f"--workdir={folder}: trained on volumes prepared by {before} of the preparation, and this eqpool has "
                f"version {PREPARATION}, which smooths volumes finer than the grid, so that its networks would see new "
                "volumes otherwise than those they learnt from; train the run again, or use the eqpool that trained it"
            )

    def write(self, folder: pathlib.Path) -> None:
        """Writes model.json."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["scaling"] = self.scaling.to_dict()
        plain["features"] = None if self.features is None else self.features.to_dict()
        files.write_json(folder / "model.json", plain)

    @classmethod
    def read(cls, folder: pathlib.Path) -> "ModelFacts":
        """Reads model.json.

        Raises:
          InputError: it is not there, or not what `write` made.
        """
        path = folder / "model.json"
        if not path.is_file():
            raise InputError(f"--workdir={folder}: model.json not found; expected the folder of a finished run")
        values = files.read_json(path)
        try:
            values["scaling"] = Scaling.from_dict(values["scaling"])
            values["features"] = values["features"] and FeatureEncoding.from_dict(values["features"])
            values |= {name: tuple(values[name]) for name in ("input_shape", "covariate_names")}
            values |= {name: same_labels(values[name], f"{path}, {name}") for name in ("site_names", "target_classes")}
            return cls(**values)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{path}: expected what eqpool wrote; it lacks or misnames {error}") from None


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The networks of a work directory.

    Attributes:
      config, facts: of the run.
      encode: (B, *input_shape) float32 -> `latent`, `phi` and `prediction`, each with B rows, and for our method
        `covariate_free` and `pooled_latent` (B, n), by `eqpool.methods.pooling_chain`.
      decode: latents (B, n) -> (B, *input_shape) float32, for volumes with the linear part where it is fitted
        (`eqpool.methods.linear_decoder`); None for a baseline, which has no chain back from Phi.
      calibration: of a table's features, through which they went before training; None where they did not.
    """

    config: RunConfig
    facts: ModelFacts
    encode: Callable[[np.ndarray], Outputs]
    decode: Callable[[np.ndarray], np.ndarray] | None
    calibration: SiteCalibration | None = None

    @property
    def grid(self) -> Grid | None:
        """Of volumes; None for tables."""
        return named_grid(self.config.data.grid) if len(self.facts.input_shape) == 3 else None


def load_trained(folder: pathlib.Path) -> TrainedRun:
    """The selected epochs of a run that has finished training.

    Raises:
      InputError: a file that is missing, unreadable or of another version, or a method without a latent.
    """
    facts = ModelFacts.read(folder)
    config = read_config(folder)
    if config.method == "istn":
        raise InputError(f"--workdir={folder}: trained by config.method = istn, which has no latent")
    shape, sites, classes = facts.input_shape, len(facts.site_names), len(facts.target_classes)
    if config.method != "ours":
        stage = make_baseline(config, shape, sites, classes)
        variables = selected_variables(config, stage, folder / "checkpoints")
        return TrainedRun(config, facts, _encode_baseline(stage, variables), None, _read_calibration(folder))
    count = len(facts.covariate_names)
    one, two = make_stage_one(config, shape, count, sites, classes), make_stage_two(config, sites, classes)
    first, second = (selected_variables(config, stage, folder / "checkpoints") for stage in (one, two))
    network = jax.jit(make_decoder(config, shape, count, classes))
    encode, calibration = _encode_ours(one, two, first, second), _read_calibration(folder)
    trained = TrainedRun(config, facts, encode, lambda latent: np.asarray(network(first, latent)), calibration)
    path = folder / LINEAR_DECODER
    return with_linear_part(trained, **files.read_arrays(path)) if path.is_file() else trained


def padded_batches(volumes: Iterable[tuple[int, np.ndarray]], size: int = 8) -> Iterator[tuple[list[int], np.ndarray]]:
    """Gathers (row, volume) into (rows, inputs (`size`, *shape) float32), in order.

    The last batch is filled up with zeros, so that a network is compiled once; memory holds a few times `size` volumes.
    """
    remaining = iter(volumes)
    while batch := list(itertools.islice(remaining, size)):
        inputs = np.zeros((size, *batch[0][1].shape), np.float32)
        for place, (_, volume) in enumerate(batch):
            inputs[place] = volume
        yield [row for row, _ in batch], inputs


def with_linear_part(trained: TrainedRun, weight: np.ndarray, offset: np.ndarray) -> TrainedRun:
    """The run whose decode adds latent @ `weight` (n, V) + `offset` (V,) at the V voxels of its grid's brain mask."""
    network, grid = trained.decode, trained.grid
    assert network is not None and grid is not None

    def decode(latent: np.ndarray) -> np.ndarray:
        volumes = np.array(network(latent))
        volumes[:, grid.mask] += latent @ weight + offset
        return volumes

    return dataclasses.replace(trained, decode=decode)


def _read_calibration(folder: pathlib.Path) -> SiteCalibration | None:
    path = folder / CALIBRATION_FILE
    return SiteCalibration.from_arrays(files.read_arrays(path)) if path.is_file() else None


def read_config(folder: pathlib.Path) -> RunConfig:
    """config.json of a work directory, checked.

    Raises:
      InputError: it is not there, or holds keys or values that this version does not know.
    """
    return from_config_dict(ConfigDict(files.read_json(folder / "config.json")))


def selected_variables(
    config: RunConfig, stage: Stage, checkpoints: pathlib.Path, optimizer: optax.GradientTransformation | None = None
) -> Variables:
    """A stage's variables at its selected epoch; `optimizer` is the one it was trained with, by default Adam.

    Raises:
      InputError: no checkpoint, or a damaged one.
    """
    folder = checkpoints / stage.name
    # The number of steps is not part of its state.
    optimizer = optimizer or make_optimizer(getattr(config, stage.name), 1)
    state = create_state(stage, optimizer, jax.random.key(config.seed))
    with Checkpoints(folder) as saved:
        if saved.latest_epoch() is None:
            raise InputError(f"{folder}: no checkpoint; expected the folder of a finished run")
        return saved.restore(state).best_variables


def _encode_ours(one: Stage, two: Stage, first: Variables, second: Variables) -> Callable[[np.ndarray], Outputs]:
    encode = jax.jit(make_encode(one, two))
    return lambda inputs: jax.device_get(encode(first, second, jnp.asarray(inputs)))


def _encode_baseline(stage: Stage, variables: Variables) -> Callable[[np.ndarray], Outputs]:
    @jax.jit
    def encode(variables: Any, inputs: jax.Array) -> dict[str, jax.Array]:
        outputs = stage.forward(variables, {"inputs": inputs})
        return {"latent": outputs["latent"], "phi": outputs["latent"], "prediction": outputs["prediction"]}

    return lambda inputs: jax.device_get(encode(variables, jnp.asarray(inputs)))
