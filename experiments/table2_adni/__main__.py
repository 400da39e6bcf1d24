"""`python -m experiments.table2_adni [--participants=participants.tsv] [--paper]`; see experiments/imaging.py."""

from experiments.imaging import Imaging, main

EXPERIMENT = Imaging(
    folder="table2_adni",
    config="adni",
    title="Table 2, ADNI",
    paper={  # delta_eq, Adv, M, ACC
        "naive": "3.1 (1.0), 59 (2.9), 27 (1.6), 80 (2.6)",
        "mmd": "3.1 (1.0), 59 (3.3), 27 (1.7), 80 (2.6)",
        "cai": "2.4 (0.7), 61 (2.1), 27 (1.5), 74 (3.6)",
        "ss": "3.7 (0.5), 57 (2.1), 26 (1.6), 81 (3.7)",
        "rm": "0.8 (0.9), 52 (5.4), 22 (0.6), 78 (3.8)",
        "ours": "5.1 (1.2), 50 (4.2), 16 (7.2), 77 (4.8)",
    },
)

if __name__ == "__main__":
    main(EXPERIMENT)
