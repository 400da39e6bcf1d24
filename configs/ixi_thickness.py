"""IXI: FreeSurfer thickness of two scanners (1.5T and 3T) whose ages match, sex to predict.

Command:  python -m eqpool.main --config=configs/ixi_thickness.py --config.data.raw_dir=FOLDER
Needs:    FOLDER/ixi_thickness/participants.tsv, or FOLDER/participants.tsv, or its path (.csv too) in
          --config.data.participants; there is no public download. Columns: participant_id, site, age, sex, and
          features by FreeSurfer's names (data.features). n/a is missing, an age of 89+ is 89,
          sex is the target.
Note:     the clean control: whatever tells the scanner is the scanner's doing; see experiments/cohorts.
Variant:  configs/ixi_thickness.py:paper carries the paper's weights and kernel, a free tau and no site calibration.
"""

from ml_collections import ConfigDict

from eqpool.config import check_variant, default_config, use_published_form


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("ixi_thickness", variant)
    config = default_config()
    config.name = "ixi_thickness"
    config.data.update(
        dataset="ixi_thickness",
        covariates="age",
        target="sex",
        features="*",
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
