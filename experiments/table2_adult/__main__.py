"""`python -m experiments.table2_adult --raw_dir=FOLDER --published_dir=FOLDER`; see experiments/table2.py."""

from experiments.table2 import Experiment, main

main(
    Experiment(
        name="adult",
        mmd_weights=(2.0, 5.0, 15.0),
        paper={
            "naive": "3.4 (0.7), 83 (0.1), 9.8 (0.3), 84 (0.1)",
            "mmd": "3.4 (0.9), 83 (0.1), 3.1 (0.3), 84 (0.1)",
            "cai": "0.1 (0.0), 81 (0.7), 4.2 (2.4), 84 (0.04)",
            "ss": "2.8 (0.5), 83 (0.2), 1.5 (0.2), 84 (0.1)",
            "rm": "0.8 (0.1), 82 (0.4), 4.8 (0.7), 84 (0.3)",
            "ours": "5.3 (0.9), 75 (1.4), 7.1 (0.6), 83 (0.1)",
        },
    )
)
