"""ABIDE I: FreeSurfer thickness and volumes of 20 sites, ages unlike, autism against control.

Command:  python -m eqpool.main --config=configs/abide1.py --config.data.raw_dir=FOLDER
Needs:    FOLDER/abide1/participants.tsv, or FOLDER/participants.tsv, or its path (.csv too) in
          --config.data.participants; there is no public download. Columns: participant_id, site, age, sex, dx, and
          features by FreeSurfer's names (data.features). n/a is missing, an age of 89+ is 89,
          sex is a category (data.covariates=age,sex:categorical).
Note:     site explains half of the variance of age; see `python -m eqpool.preflight` and experiments/pages/cohorts.md.
Variant:  configs/abide1.py:paper carries the paper's weights and kernel, a free tau and no site calibration.
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant, use_freesurfer_pooling


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("abide1", variant)
    config = default_config()
    config.name = "abide1"
    config.data.update(dataset="abide1", covariates="age,sex:categorical", target="dx")
    use_freesurfer_pooling(config, variant)
    return config
