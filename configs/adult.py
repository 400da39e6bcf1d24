"""Adult census as a pooling task: gender as the site, age as the covariate, income above 50K to predict.

Command:  python -m eqpool.main --config=configs/adult.py
Needs:    adult.data and adult.test from UCI, downloaded on first use, or --config.data.raw_dir=FOLDER
Time:     about 3 minutes on one quiet CPU core, most of it probes.
Score:    three seeds (experiment table2_adult): accuracy 83.4 % (0.2); the strongest probe predicts the site from
          Phi with balanced accuracy 0.580 (0.013) and AUC 0.61 (site floor 0.594 and 0.63; naive 0.826 and 0.91).
Variants: configs/adult.py:paper carries the paper's weights, kernel and free Phi;
          --config.data.split=published reads the published split (adult.npz in data.raw_dir).
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant, use_published_form


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("adult", variant)
    config = default_config()
    config.name = "adult"
    config.data.dataset = "adult"
    config.model.update(tau="covariate", tau_steps=16, code_dim=1, code_levels=8)
    config.stage_one.update(
        epochs=60,
        batch_size=512,
        learning_rate=2e-3,
        equivariance_weight=0.1,
        reconstruction_weight=1.0,
        prediction_weight=1.0,
        mmd_weight=50.0,
        bandwidth="0.3,1.0",
    )
    config.stage_two.update(
        epochs=60, batch_size=1024, learning_rate=3e-3, mmd_weight=5.0, mmd_match="phi", bandwidth="0.3,1.0"
    )
    config.baseline.update(epochs=90, batch_size=512, learning_rate=2e-3, decay_every_epochs=15)
    config.evaluate.update(
        adversary_learning_rate=1e-2, adversary_batch_size=1024, adversary_epochs=100, probe_seeds=1, probe_folds=2
    )
    if variant == "paper":
        config.model.update(tau="free", tau_steps=0, code_dim=0, code_levels=0)
        config.stage_one.update(epochs=201, batch_size=128, learning_rate=1e-3, mmd_weight=0.0)
        for stage in (config.stage_two, config.baseline):
            stage.update(epochs=201, batch_size=128, learning_rate=1e-3)
        use_published_form(config, ramp_growth=1.1, ramp_ceiling=25.0)
    return config
