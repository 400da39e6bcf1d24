"""A method in one file: a linear latent, l = W x, trained to reconstruct, and its least-squares way back."""

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import TrainingConfig
from eqpool.engine.session import train_stage
from eqpool.engine.state import LossValue, Stage
from eqpool.evaluate.outputs import Embeddings
from eqpool.losses.task import task_loss
from eqpool.methods.latent import LatentMethod


class Toy(LatentMethod):
    def stages(self, config, shape):
        (features,), size = shape.inputs, config.model.latent_dim

        def initialise(key):
            weight, head = jax.random.split(key)
            sizes = {"weight": (features, size), "head": (size, shape.outputs)}
            return {"params": {n: jax.random.normal(k, sizes[n]) for n, k in (("weight", weight), ("head", head))}}

        def forward(variables, batch):
            latent = batch["inputs"] @ variables["params"]["weight"]
            return {"latent": latent, "prediction": latent @ variables["params"]["head"]}

        def score(outputs, rows):
            mask = rows["target_known"] * rows.get("mask", 1)
            return task_loss(outputs["prediction"], rows["target"], num_classes=shape.classes, mask=mask)

        def loss(variables, batch, key, epoch, axis_name):
            value = score(forward(variables, batch), batch)
            return LossValue(value, {"prediction": value}, {})

        settings = TrainingConfig(epochs=3, batch_size=16, learning_rate=1e-2)
        return (Stage("toy", initialise, loss, forward, lambda o, rows: {"score": score(o, rows)}, settings=settings),)

    def train_stages(self, session, shape, data):
        _, out = train_stage(session, *self.stages(session.config, shape), data)
        return Embeddings(out["latent"], None, out["latent"], None, out["prediction"])

    def networks(self, config, shape, variables):
        ((stage,), (trained,)) = self.stages(config, shape), variables

        def encode(inputs):
            outputs = jax.device_get(stage.forward(trained, {"inputs": jnp.asarray(inputs)}))
            return outputs | {"phi": outputs["latent"], "pooled_latent": outputs["latent"]}

        return encode, lambda latent: latent @ np.linalg.pinv(trained["params"]["weight"])
