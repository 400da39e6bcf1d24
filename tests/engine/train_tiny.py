"""Trains both stages on a tiny cohort and keeps what came out: one process of tests/engine/test_processes.py.

python tests/engine/train_tiny.py FOLDER volumes|table EPOCHS_OF_STAGE_TWO [--distributed]
"""

import dataclasses
import pathlib
import sys

import jax
import numpy as np

from eqpool.config import RunConfig, default_config
from eqpool.config.check import from_config_dict
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.volumes.inputs import Grid
from eqpool.engine import data_parallel
from eqpool.engine.session import Session
from eqpool.methods.latent import train_latents
from eqpool.storage import files
from eqpool.storage.run_folder import RunFolder
from tests.volume_inputs import volume_inputs

SHAPE, ROWS, FEATURES = (21, 21, 21), 26, 7


def tiny_config(epochs: int) -> RunConfig:
    config = default_config()
    config.data.participants = "made here"
    config.model.update(latent_dim=6, hidden_units=8, blocks=(1,), channels=(4,), decoder_channels=(4,))
    for stage, count in ((config.stage_one, 2), (config.stage_two, epochs)):
        # 6 rows a batch on 8 devices: the devices' padding and batches that are not full are both met.
        stage.update(epochs=count, batch_size=6, learning_rate=1e-3, checkpoint_every_epochs=1)
    config.stage_one.update(equivariance_weight=0.1, reconstruction_weight=1.0, prediction_weight=1.0)
    config.stage_two.update(mmd_weight=1.0)
    return from_config_dict(config)


def tiny_cohort(kind: str) -> Cohort:
    generator = np.random.default_rng(0)
    grid = Grid("tiny", SHAPE, np.eye(4), np.ones(SHAPE, bool))
    shape = SHAPE if kind == "volumes" else (FEATURES,)
    return Cohort(
        name="tiny",
        simulated=True,
        participant_id=np.array([f"sub-{row:02d}" for row in range(ROWS)]),
        inputs=generator.normal(size=(ROWS, *shape)).astype(np.float32),
        site=generator.integers(0, 2, ROWS).astype(np.int32),
        site_names=("a", "b"),
        covariates=generator.uniform(20, 80, (ROWS, 1)),
        covariate_names=("age",),
        target=generator.integers(0, 2, ROWS).astype(np.int32),
        target_name="diagnosis",
        target_classes=("no", "yes"),
        split=np.array(["train"] * 14 + ["validation"] * 6 + ["test"] * 6),
        volumes=volume_inputs(grid, ROWS) if kind == "volumes" else None,
    )


def main(folder: pathlib.Path, kind: str, epochs: int, distributed: bool) -> None:
    jax.config.update("jax_disable_most_optimizations", True)  # compiles in half the time
    if distributed and not data_parallel.join_processes():
        files.leave_to_another(folder)
    cohort, config = tiny_cohort(kind), tiny_config(epochs)
    session = Session.start(config, RunFolder(folder))
    assert session.mesh.size == 8
    folder.mkdir(exist_ok=True)
    embeddings, _ = train_latents(session, cohort, Scaling.fit(cohort))
    arrays = {field.name: getattr(embeddings, field.name) for field in dataclasses.fields(embeddings)}
    arrays |= {"number": np.array(jax.process_index()), "processes": np.array(jax.process_count())}
    files.write_arrays(folder / "outputs.npz", arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), "--distributed" in sys.argv[4:])
