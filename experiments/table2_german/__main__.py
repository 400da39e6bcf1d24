"""`python -m experiments.table2_german --raw_dir=FOLDER --published_dir=FOLDER`; see experiments/table2.py."""

from experiments.table2 import Experiment, main

main(
    Experiment(
        name="german",
        mmd_weights=(0.02, 0.1, 1.0),
        paper={
            "naive": "4.6 (0.7), 0.62 (0.03), 7.7 (0.8), 74 (0.9)",
            "mmd": "4.5 (1.0), 0.66 (0.04), 1.5 (0.3), 73 (1.5)",
            "cai": "1.9 (0.6), 0.65 (0.01), 1.2 (0.2), 76 (1.3)",
            "ss": "3.8 (0.5), 0.70 (0.07), 1.5 (0.6), 76 (0.9)",
            "rm": "3.4 (0.4), 0.66 (0.04), 7.5 (0.9), 74 (2.1)",
            "ours": "6.4 (0.6), 0.54 (0.01), 2.7 (0.6), 75 (3.3)",
        },
    )
)
