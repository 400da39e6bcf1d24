"""Adult census as a pooling task: gender as the site, age as the covariate, income above 50K to predict.

Command:  python -m eqpool.main --config=configs/adult.py
Needs:    adult.data and adult.test from UCI, downloaded on first use, or --config.data.raw_dir=FOLDER
Variants: configs/adult.py:paper carries the paper's weights, kernel and free Phi;
          --config.data.split=published reads the published split (adult.npz in data.raw_dir).
"""

from ml_collections import ConfigDict

from eqpool.config import default_config


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    if variant not in ("", "paper"):
        raise ValueError(f"configs/adult.py:{variant}: expected configs/adult.py or configs/adult.py:paper")
    config = default_config()
    config.name = "adult"
    config.checkpoint_every_epochs = 20
    config.data.dataset = "adult"
    config.stage_one.update(
        epochs=201,
        batch_size=128,
        learning_rate=1e-3,
        equivariance_weight=0.1,
        reconstruction_weight=1.0,
        prediction_weight=1.0,
    )
    config.stage_two.update(epochs=201, batch_size=128, learning_rate=1e-3, mmd_weight=1.0)
    config.evaluate.update(adversary_learning_rate=1e-2, adversary_batch_size=1024, adversary_epochs=100, probe_seeds=1)
    if variant == "paper":
        config.name = "adult_paper"
        config.model.phi = "free"
        config.stage_one.update(equivariance_weight=4.0, reconstruction_weight=0.01, prediction_weight=1.0)
        config.stage_two.update(
            mmd_weight=0.02,
            mmd_match="phi",
            kernel="laplacian",
            bandwidth="1.0",
            estimator="biased",
            mmd_ramp_start=0.1,
            mmd_ramp_growth=1.1,
            mmd_ramp_ceiling=25.0,
        )
    return config
