"""Your own T1 volumes of several scanners, with a diagnosis to predict and age as the covariate.

Command:  eqpool run --config=configs/volumes.py --config.data.participants=my_study/participants.tsv
          or python -m eqpool.main --config=configs/volumes.py and the same flags
Needs:    skull-stripped T1 volumes in BIDS layout, and a participants.tsv with a row a scan and the columns
          participant_id, site, age and dx. Columns of other names: --config.data.site_column,
          --config.data.covariates (such as age,sex:categorical) and --config.data.target.
Align:    data.align=auto registers all volumes to the MNI152 template if more than a tenth of them miss it. What is
          written still lies on the voxels of your scans.
Time:     preparing and training take as long as for as many simulated volumes of configs/adni.py; the registration
          takes about 15 seconds a volume, once. --dry_run says how long training would take.
Variant:  configs/volumes.py:paper carries the protocol of Lokhande et al. 2022: 91x109x91 voxels of 2 mm, 150 epochs,
          batch 256 (for an accelerator).
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant, use_volume_pooling


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("volumes", variant)
    config = default_config()
    config.name = "volumes"
    config.data.align = "auto"
    use_volume_pooling(config, variant, paper_batch_size=256)
    return config
