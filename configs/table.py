"""Your own table of features, such as FreeSurfer's, of several scanners, with a diagnosis to predict and age kept.

Command:  eqpool run --config=configs/table.py --config.data.participants=my_study/freesurfer.tsv
          or python -m eqpool.main --config=configs/table.py and the same flags
Needs:    a .tsv or .csv with a row a scan and the columns participant_id, site, age, dx and features by the pattern
          *_thickness. Columns of other names: --config.data.features (names or patterns, comma-separated),
          --config.data.site_column, --config.data.covariates (such as age,sex:categorical) and --config.data.target.
Time:     3 minutes of CPU time for 491 rows of 70 features (IXI, sex as the target).
Instead:  `eqpool harmonise` corrects a table in one command, without networks and without a config.
Variant:  configs/table.py:paper carries the weights and kernel of the published code of Lokhande et al. 2022, a free
          tau and no site calibration.
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant, use_freesurfer_pooling


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("table", variant)
    config = default_config()
    config.name = "table"
    use_freesurfer_pooling(config, variant)
    config.data.features = "*_thickness"
    return config
