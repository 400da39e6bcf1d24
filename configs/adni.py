"""ADNI-shaped pooling of T1 volumes: three scanners, AD against CN, age as the covariate.

Command:  python -m eqpool.main --config=configs/adni.py
Needs:    nothing. Without data.participants the cohort is SIMULATED on the MNI152 anatomy, with the counts, ages and
          scanners of the paper's Table 3 and Fig. 6; 4 mm grid, sized for a CPU.
Own data: --config.data.participants=participants.tsv (BIDS layout; columns site, age, dx)
Time:     8 minutes on 2 CPU cores; the first run makes the cohort in 25 s more.
Score:    seed 0, 90 held-out subjects (2026-11-28): error of harmonised volumes to the scanner-free truth 0.252 (raw
          0.347, ComBat 0.271); scanner predicted from them with balanced accuracy 0.49 (raw 0.98, ComBat 0.59, truth
          0.40). From Phi 0.43 [0.32, 0.55] (site floor 0.56), from tau^-1 Phi 0.42 [0.31, 0.53] (shuffled sites:
          0.40). AD/CN accuracy 83 % [76, 90]; age from Phi with MAE 4.3 years; equivariance error 0.43 [0.30, 0.55],
          0.76 of its floor; SSIM 0.78, PSNR 30 dB against the input.
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
