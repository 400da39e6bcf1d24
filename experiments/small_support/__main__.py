"""`python -m experiments.small_support`: paper A, Fig. 6 right; see experiments/imaging.py.

The simulated cohort `adni_small_support` has ADNI's counts and scanners, and ages cut so that two scanners share three
years at most. A real cohort is cut by its user and given as --participants.
"""

from experiments.imaging import Imaging, main

EXPERIMENT = Imaging(
    folder="small_support",
    config="adni",
    title="Ages of scanners that barely overlap (Fig. 6 right)",
    paper={"naive": "M 27", "ours": "M 16"},
    fixed={"data.dataset": "adni_small_support"},
    methods=("naive", "ours"),
)

if __name__ == "__main__":
    main(EXPERIMENT)
