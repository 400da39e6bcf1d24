"""`python -m experiments.table2_adcp [--participants=participants.tsv] [--paper]`; see experiments/imaging.py."""

from experiments.imaging import Imaging, main

EXPERIMENT = Imaging(
    folder="table2_adcp",
    config="adcp",
    title="Table 2, ADCP",
    paper={  # delta_eq, Adv, M, ACC
        "naive": "4.1 (0.9), 49 (8.4), 90 (8.7), 83 (4.4)",
        "mmd": "3.6 (1.0), 49 (11.9), 86 (11.0), 84 (6.5)",
        "cai": "2.8 (1.6), 56 (6.9), 85 (12.3), 82 (5.1)",
        "ss": "3.4 (1.3), 51 (6.7), 88 (14.6), 82 (3.5)",
        "rm": "0.4 (0.5), 40 (4.7), 77 (13.8), 84 (5.3)",
        "ours": "7.5 (1.2), 49 (7.3), 70 (22.3), 81 (1.8)",
    },
)

if __name__ == "__main__":
    main(EXPERIMENT)
