"""1000 Functional Connectomes: FreeSurfer thickness and volumes of 19 sites, ages unlike, sex to predict.

Command:  python -m eqpool.main --config=configs/fcon1000.py --config.data.raw_dir=FOLDER
Needs:    FOLDER/fcon1000/participants.tsv, or FOLDER/participants.tsv, or its path (.csv too) in
          --config.data.participants; there is no public download. Columns: participant_id, site, age, sex, and
          features by FreeSurfer's names (data.features). n/a is missing, an age of 89+ is 89,
          sex is the target.
Note:     site explains half of the variance of age; see `python -m eqpool.preflight` and experiments/pages/cohorts.md.
Variant:  configs/fcon1000.py:paper carries the paper's weights and kernel, a free tau and no site calibration.
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant, use_freesurfer_pooling


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("fcon1000", variant)
    config = default_config()
    config.name = "fcon1000"
    config.data.update(dataset="fcon1000", covariates="age", target="sex")
    use_freesurfer_pooling(config, variant)
    return config
