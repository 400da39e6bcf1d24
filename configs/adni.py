"""ADNI-shaped pooling of T1 volumes: three scanners, AD against CN, age as the covariate.

Command:  python -m eqpool.main --config=configs/adni.py
Needs:    nothing. Without data.participants the cohort is SIMULATED on the MNI152 anatomy, with the counts, ages and
          scanners of the paper's Table 3 and Fig. 6; 4 mm grid, sized for a CPU.
Own data: --config.data.participants=participants.tsv (BIDS layout; columns site, age, dx)
Time:     10 minutes on 2 CPU cores that other work shared; the first run makes the cohort in 25 s more.
Score:    seed 0, 90 held-out subjects: AD/CN accuracy 84 % [77, 91] (naive 81, by half as many steps as now);
          scanner predicted from tau^-1 Phi with balanced accuracy 0.39 [0.31, 0.47] (shuffled sites: 0.40), from Phi
          0.51 [0.40, 0.61] (site floor 0.56), from l 0.88; age from Phi with MAE 5.2 years; harmonised volumes: SSIM
          0.96, PSNR 36 dB against the input. tau is not distinguishable from one that never turns: equivariance
          error 1.03 [0.68, 1.38]. These numbers are from before tau was stretched (stage_two.stretch_tau).
Variant:  configs/adni.py:paper carries the paper's protocol: 91x109x91 at 2 mm, 150 epochs, batch 256 (accelerator).
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant, use_volume_pooling


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("adni", variant)
    config = default_config()
    config.name = "adni"
    config.data.dataset = "adni"
    use_volume_pooling(config, variant, paper_batch_size=256)
    return config
