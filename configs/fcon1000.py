"""1000 Functional Connectomes: FreeSurfer thickness and volumes of 19 sites, ages unlike, sex to predict.

Command:  python -m eqpool.main --config=configs/fcon1000.py --config.data.raw_dir=FOLDER
Needs:    FOLDER/fcon1000/participants.tsv, or FOLDER/participants.tsv, or its path (.csv too) in
          --config.data.participants; there is no public download. Columns: participant_id, site, age, sex, and
          features by FreeSurfer's names (data.features). n/a is missing, an age of 89+ is 89,
          sex is the target.
Note:     site explains half of the variance of age; see `python -m eqpool.preflight` and experiments/cohorts.
Variant:  configs/fcon1000.py:paper carries the paper's weights and kernel, a free tau and no site calibration.
"""

from ml_collections import ConfigDict

from eqpool.config import check_variant, default_config, use_published_form


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("fcon1000", variant)
    config = default_config()
    config.name = "fcon1000"
    config.data.update(
        dataset="fcon1000",
        covariates="age",
        target="sex",
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
