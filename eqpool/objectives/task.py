"""The task model of Robinson et al. 2020: a classifier or a regressor of images, trained on the source site."""

from typing import Any

import jax
import jax.numpy as jnp

from eqpool.config import RunConfig
from eqpool.data.shape import DataShape
from eqpool.engine.state import Batch, LossValue, Stage, Variables, init_variables
from eqpool.models.task import make_task_model
from eqpool.objectives.prediction import prediction_loss
from eqpool.ops.devices import AxisName


def as_images(volumes: jax.Array) -> jax.Array:
    """Adds the channel axis that the networks of Robinson et al. 2020 expect: (N, *shape) to (N, *shape, 1)."""
    return volumes[..., None]


def apply_task(model: Any, variables: Variables, images: jax.Array, **options: Any) -> Any:
    """Applies the task model to (N, *shape, 1) images and returns (N, classes) logits, or (N, 1) for a numeric target.

    The options are those of Flax's `apply`. With `mutable` the updated collections are returned too.
    """
    outputs = model.apply(variables, images, **options)
    prediction, updated = outputs if "mutable" in options else (outputs, None)
    prediction = prediction[:, None] if prediction.ndim == 1 else prediction
    return prediction if updated is None else (prediction, updated)


def task_network(config: RunConfig, num_classes: int) -> Any:
    """Makes the task model that `config.task` describes; `num_classes` is 0 for a numeric target."""
    return make_task_model(config.task.model, num_classes, jnp.dtype(config.model.compute_dtype))


def make_task(config: RunConfig, shape: DataShape) -> Stage:
    """Assembles the stage "task".

    Batches hold `inputs` (N, *shape.inputs) in [-1, 1], `target` and `target_known` (N,), and `mask` (N,).
    """
    model = task_network(config, shape.classes)

    def loss(
        variables: Variables, batch: Batch, key: jax.Array, epoch: jax.Array, axis_name: AxisName = None
    ) -> LossValue:
        del epoch
        mask = batch["mask"]
        options = {"mask": mask, "axis_name": axis_name, "rngs": {"dropout": key}, "mutable": ["batch_stats"]}
        prediction, updated = apply_task(model, variables, as_images(batch["inputs"]), train=True, **options)
        value = prediction_loss(config, prediction, batch, shape.classes, mask, axis_name)
        return LossValue(value, {"prediction": value}, dict(updated))

    def forward(variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        return {"prediction": apply_task(model, variables, as_images(batch["inputs"]), train=False)}

    def validate(outputs: dict[str, jax.Array], rows: Batch) -> dict[str, jax.Array]:
        return {"score": prediction_loss(config, outputs["prediction"], rows, shape.classes)}

    def initialise(key: jax.Array) -> Variables:
        return init_variables(model, key, jnp.zeros((2, *shape.inputs, 1)), train=False)

    settings, decay = config.task, config.task.average_decay
    return Stage("task", initialise, loss, forward, validate, average_decay=decay, settings=settings, number=4)
