"""German credit as a pooling task: foreign worker as the site, age as the covariate, good or bad credit to predict.

Command:  python -m eqpool.main --config=configs/german.py
Needs:    german.data from UCI, downloaded on first use, or --config.data.raw_dir=FOLDER
Variants: configs/german.py:paper carries the paper's weights, kernel and free Phi;
          --config.data.split=published reads the published split (german.npz in data.raw_dir).
"""

from ml_collections import ConfigDict

from eqpool.config import default_config


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    if variant not in ("", "paper"):
        raise ValueError(f"configs/german.py:{variant}: expected configs/german.py or configs/german.py:paper")
    config = default_config()
    config.name = "german"
    config.checkpoint_every_epochs = 100
    config.data.dataset = "german"
    config.stage_one.update(
        epochs=501,
        batch_size=128,
        learning_rate=1e-2,
        equivariance_weight=0.1,
        reconstruction_weight=1.0,
        prediction_weight=1.0,
    )
    config.stage_two.update(epochs=501, batch_size=128, learning_rate=1e-2, mmd_weight=1.0)
    config.evaluate.adversary_learning_rate = 1e-2
    if variant == "paper":
        config.name = "german_paper"
        config.model.phi = "free"
        config.stage_one.update(equivariance_weight=4.0, reconstruction_weight=0.01, prediction_weight=1.0)
        config.stage_two.update(
            mmd_weight=0.02,
            mmd_match="phi",
            kernel="laplacian",
            bandwidth="1.0",
            estimator="biased",
            mmd_ramp_start=0.1,
            mmd_ramp_growth=1.5,
            mmd_ramp_ceiling=25.0,
        )
    return config
