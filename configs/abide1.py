"""ABIDE I: FreeSurfer thickness and volumes of 20 sites, ages unlike, autism against control.

Command:  python -m eqpool.main --config=configs/abide1.py --config.data.raw_dir=FOLDER
Needs:    FOLDER/abide1/participants.tsv, or FOLDER/participants.tsv, or its path (.csv too) in
          --config.data.participants; there is no public download. Columns: participant_id, site, age, sex, dx, and
          features by FreeSurfer's names (data.features). n/a is missing, an age of 89+ is 89,
          sex is a category (data.covariates=age,sex:categorical).
Note:     site explains half of the variance of age; see `python -m eqpool.preflight` and experiments/cohorts.
Variant:  configs/abide1.py:paper carries the paper's weights and kernel, a free tau and no site calibration.
"""

from ml_collections import ConfigDict

from eqpool.config import check_variant, default_config, use_published_form


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("abide1", variant)
    config = default_config()
    config.name = "abide1"
    config.data.update(
        dataset="abide1",
        covariates="age,sex:categorical",
        target="dx",
        features="*_thickness,*-*,*Ventricle",
        site_calibration="covariance",
    )
    config.model.tau = "covariate"
    config.stage_one.update(
        epochs=150,
        batch_size=128,
        learning_rate=2e-3,
        decay_every_epochs=20,
        equivariance_weight=0.1,
        reconstruction_weight=1.0,
        prediction_weight=0.3,
        mmd_weight=0.5,
    )
    config.stage_two.update(
        epochs=150,
        batch_size=512,
        learning_rate=2e-3,
        decay_every_epochs=20,
        prediction_weight=0.3,
        reconstruction_weight=10.0,
        mmd_weight=0.5,
    )
    config.baseline.update(epochs=150, learning_rate=2e-3, decay_every_epochs=20)
    config.evaluate.update(probe_seeds=1)
    if variant == "paper":
        config.data.site_calibration = "none"
        config.model.tau = "free"
        config.stage_one.mmd_weight = 0.0
        use_published_form(config, ramp_growth=1.5, ramp_ceiling=25.0)
    return config
