"""`python -m experiments.rescanned --participants=rescanned/participants.tsv`; see experiments/imaging.py.

Real brains, half of them with a SIMULATED second scanner (`python -m eqpool.data.rescanned` writes them): what pooling
takes away was put there, and sex and age are real. The volumes are aligned to the template first (the extra "align").
"""

from experiments.imaging import Imaging, main

EXPERIMENT = Imaging(
    folder="rescanned",
    config="adni",
    title="Real brains, half of them with a simulated second scanner: sex, age as the covariate",
    paper={},
    fixed={"data.target": "sex", "data.align": "affine"},
    methods=("naive", "ours"),
)

if __name__ == "__main__":
    main(EXPERIMENT)
