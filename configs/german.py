"""German credit as a pooling task: foreign worker as the site, age as the covariate, good or bad credit to predict.

Command:  python -m eqpool.main --config=configs/german.py
Needs:    german.data from UCI, downloaded on first use, or --config.data.raw_dir=FOLDER
Time:     about a minute on one CPU core, most of it probes.
Score:    three seeds (experiment table2_german): accuracy 73.8 % (2.6); the strongest probe predicts the site from
          Phi with balanced accuracy 0.601 (0.017) and AUC 0.70 (site floor 0.706; naive 0.577 and 0.72 at 76.5 %). By
          five folds of the training rows: 73.0 %, 0.518 (naive 72.8 %, 0.684; floor 0.565).
Variants: configs/german.py:paper carries the paper's weights, kernel and free Phi;
          --config.data.split=published reads the published split (german.npz in data.raw_dir).
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant, use_published_form


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("german", variant)
    config = default_config()
    config.name = "german"
    config.data.dataset = "german"
    config.model.update(tau="covariate", tau_steps=16, hidden_units=16)
    config.stage_one.update(
        epochs=100,
        batch_size=128,
        learning_rate=1e-3,
        weight_decay=3.0,
        equivariance_weight=0.1,
        reconstruction_weight=1.0,
        prediction_weight=10.0,
        mmd_weight=5.0,
        bandwidth="0.3,1.0",
    )
    config.stage_two.update(
        epochs=60,
        batch_size=640,
        learning_rate=3e-3,
        decay_every_epochs=50,
        weight_decay=1.0,
        prediction_weight=5.0,
        mmd_weight=0.1,
        mmd_match="phi",
        within_classes=True,  # the share of good credits differs between the sites
        erase_site="conditional",
        bandwidth="0.3,1.0",
    )
    config.baseline.update(epochs=501, batch_size=128, learning_rate=1e-2)
    config.evaluate.adversary_learning_rate = 1e-2
    if variant == "paper":
        config.model.update(tau="free", tau_steps=0, hidden_units=64)
        config.stage_one.update(epochs=501, learning_rate=1e-2, weight_decay=0.0, mmd_weight=0.0)
        config.stage_two.update(
            epochs=501, batch_size=128, learning_rate=1e-2, weight_decay=0.0, prediction_weight=1.0,
            within_classes=False, erase_site="none",
        )  # fmt: skip
        use_published_form(config, ramp_growth=1.5, ramp_ceiling=25.0)
    return config
