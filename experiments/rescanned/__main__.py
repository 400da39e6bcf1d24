"""`python -m experiments.rescanned --participants=rescanned/participants.tsv`; see experiments/imaging.py.

Real brains, half of them with a SIMULATED second scanner (`python -m eqpool.data.rescanned` writes them): what pooling
takes away was put there, and sex and age are real. The volumes are aligned to the template first (the extra "align").
"""

from experiments.imaging import Imaging, main

# Some tens of people: as many steps as elsewhere take more epochs, and a dozen validation rows cannot choose one.
_LONGER = {"epochs": 42, "decay_every_epochs": 12, "checkpoint_every_epochs": 6, "keep_epoch": "last"}
LONGER = {f"{stage}.{key}": value for stage in ("stage_one", "baseline") for key, value in _LONGER.items()}

EXPERIMENT = Imaging(
    folder="rescanned",
    config="adni",
    title="Real brains, half of them with a simulated second scanner: sex, age as the covariate",
    own="Real brains, the second scanner SIMULATED",
    paper={},
    fixed={"data.target": "sex", "data.align": "affine"} | LONGER,
    methods=("naive", "ours"),
)

if __name__ == "__main__":
    main(EXPERIMENT)
