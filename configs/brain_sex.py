"""Sex from T1 volumes of two sites, the one harmonised to the other by an ISTN (Robinson et al. 2020, Table 2).

Command:  python -m eqpool.main --config=configs/brain_sex.py
Needs:    nothing: a SIMULATED cohort shaped like UK Biobank and Cam-CAN, whose ages differ (population shift), or
          your own by --config.data.participants=participants.tsv (columns site, age, sex; skull-stripped T1 near MNI)
Source:   Cam-CAN, harmonised to UK Biobank; --config.istn.reference=CamCAN goes the other way
Time:     19 minutes on one core of two that other work shared.
Score:    seed 0, 90 held-out brains: accuracy 72.2 % on the source, 51.1 % on the reference before, 75.6 % both
          fine-tuned and from scratch on S2T; with --config.istn.reference=CamCAN 77.8, 66.7, 65.6 and 64.4 %: images
          come nearer, and the classifier does not gain (experiments/pages/istn_brain.md).
Variants: configs/brain_sex.py:paper is 64^3 voxels and the paper's 50 epochs, for an accelerator;
          the default is 32^3, which a CPU can do.
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant, use_brain_istn


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("brain_sex", variant)
    config = default_config()
    config.name = "brain_sex"
    config.data.update(dataset="brain_sex", target="sex", target_type="classes", covariates="age")
    config.task.model = "sex_classifier"
    use_brain_istn(config, variant)
    return config
