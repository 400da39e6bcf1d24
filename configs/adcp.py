"""ADCP-shaped pooling of T1 volumes: three sites, AD against Control, age as the covariate.

Command:  python -m eqpool.main --config=configs/adcp.py
Needs:    nothing. Without data.participants the cohort is SIMULATED on the MNI152 anatomy, with the counts, ages and
          sites of the paper's Table 4 and Fig. 10; 4 mm grid, sized for a CPU.
Own data: --config.data.participants=participants.tsv (BIDS layout; columns site, age, dx)
Time:     about 3 minutes on 2 CPU cores. Only 25 subjects have AD: expect wide intervals.
Score:    five splits of 23 held-out subjects, mmd_weight 5 (experiment table2_adcp): AD/Control accuracy 79.1 % (4.8)
          (naive 78.3, by 84 steps in place of 384), site predicted from tau^-1 Phi
          with balanced accuracy 0.52 (0.09) (shuffled sites: 0.43), from
          Phi 0.67 (0.09) (site floor 0.67, naive 0.77). tau is not distinguishable from noise: equivariance error
          2.7 (2.6). These numbers are from before tau was stretched (stage_two.stretch_tau).
Variant:  configs/adcp.py:paper carries the paper's protocol: 91x109x91 at 2 mm, 150 epochs, batch 32 (accelerator).
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant, use_volume_pooling


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("adcp", variant)
    config = default_config()
    config.name = "adcp"
    config.data.dataset = "adcp"
    use_volume_pooling(config, variant, paper_batch_size=32)
    if not variant:
        config.baseline.update(epochs=64, decay_every_epochs=18)  # 384 steps of its 81 rows, as both stages together
    return config
