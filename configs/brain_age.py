"""Age from T1 volumes of two sites, the one harmonised to the other by an ISTN (Robinson et al. 2020, Table 3).

Command:  python -m eqpool.main --config=configs/brain_age.py
Needs:    nothing: a SIMULATED cohort shaped like UK Biobank and Cam-CAN with matched ages, or your own by
          --config.data.participants=participants.tsv (columns site, age, sex; skull-stripped T1 near MNI)
Source:   Cam-CAN, harmonised to UK Biobank; --config.istn.reference=CamCAN goes the other way
Time:     19 minutes on one core of two that other work shared.
Score:    seed 0, 90 held-out brains: mean error 4.45 years on the source, 5.61 on the reference before, 4.41 fine-tuned
          and 4.80 from scratch on S2T; with --config.istn.reference=CamCAN 3.93, 4.28, 5.11 and 4.46.
Variants: configs/brain_age.py:paper is 64^3 voxels and the paper's 50 epochs, for an accelerator;
          the default is 32^3, which a CPU can do.
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant, use_brain_istn


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("brain_age", variant)
    config = default_config()
    config.name = "brain_age"
    config.data.update(dataset="brain_age", target="age", target_type="number", covariates="sex:categorical")
    config.task.model = "age_regressor"
    use_brain_istn(config, variant)
    return config
