"""IXI: FreeSurfer thickness of two scanners (1.5T and 3T) whose ages match, sex to predict.

Command:  python -m eqpool.main --config=configs/ixi_thickness.py --config.data.raw_dir=FOLDER
Needs:    FOLDER/ixi_thickness/participants.tsv, or FOLDER/participants.tsv, or its path (.csv too) in
          --config.data.participants; there is no public download. Columns: participant_id, site, age, sex, and
          features by FreeSurfer's names (data.features). n/a is missing, an age of 89+ is 89,
          sex is the target.
Note:     the clean control: ages match, so only scanner effects predict the scanner (experiments/pages/cohorts.md).
Variant:  configs/ixi_thickness.py:paper carries the paper's weights and kernel, a free tau and no site calibration.
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant, use_freesurfer_pooling


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("ixi_thickness", variant)
    config = default_config()
    config.name = "ixi_thickness"
    config.data.update(dataset="ixi_thickness", covariates="age", target="sex")
    use_freesurfer_pooling(config, variant)
    config.data.features = "*"
    return config
