"""Morpho-MNIST: harmonise the digits of two domains for a classifier trained on one (Robinson et al. 2020, Table 1).

Command:  python -m eqpool.main --config=configs/morpho_mnist.py
Needs:    MNIST's four files, downloaded on first use, or --config.data.raw_dir=FOLDER
Domains:  --config.data.source_domain and --config.data.target_domain: thin, thick, slanted, thick_slanted
Time:     14 to 18 minutes on one CPU core, most of it the ISTN's 912 steps, and 2.5 minutes more for the scorecard
          (--config.evaluate.scorecard=False leaves it out).
Score:    thin to thick, seed 0, 1000 held-out digits: 33.2 % before; 68.0 % [65.1, 70.8] retrained from scratch, 77.5 %
          [74.8, 80.1] fine-tuned; 86.7 % on the source itself. Without istn.task_weight the ITN closes fractures while
          it thickens. experiments/pages/istn_table1.md has the table, and the flags for all 60 000 digits.
Variants: configs/morpho_mnist.py:paper is the full setting (70 000 digits, 100 epochs), for an accelerator.
"""

from ml_collections import ConfigDict

from eqpool.config import default_config
from eqpool.config.presets import check_variant


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("morpho_mnist", variant)
    config = default_config()
    config.name = "morpho_mnist"
    config.method = "istn"
    config.data.update(dataset="morpho_mnist", train_digits=8000, test_digits=1000)
    config.task.update(
        model="morpho_classifier",
        epochs=20,
        batch_size=64,
        learning_rate=1e-3,
        checkpoint_every_epochs=10,
        validate_every_epochs=2,
    )
    config.istn.update(
        shape="none",
        encoder=(16, 32, 64),
        bottleneck=(128, 64),
        decoder=(32, 16),
        discriminator=(32, 64, 128, 256),
        dropout=0.0,
        fill=-1.0,
        task_weight=1.0,
        epochs=16,
        batch_size=64,
        learning_rate=3e-4,
        learning_rate_decay=1.0,
        image_weight=10.0,
        validate_every_epochs=2,
        checkpoint_every_epochs=5,
    )
    if variant == "paper":
        config.name = "morpho_mnist_paper"
        config.data.update(train_digits=60_000, test_digits=10_000)
        config.task.update(epochs=100, learning_rate_decay=1.0)
        config.istn.update(
            task_weight=0.0, epochs=100, batch_size=16, learning_rate=1e-4, momentum=0.5, task_learning_rate=1e-4,
            image_weight=50.0, validate_every_epochs=5,
        )  # fmt: skip
    return config
