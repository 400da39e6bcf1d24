"""ADCP-shaped pooling of T1 volumes: three sites, AD against Control, age as the covariate.

Command:  python -m eqpool.main --config=configs/adcp.py
Needs:    nothing. Without data.participants the cohort is SIMULATED on the MNI152 anatomy, with the counts, ages and
          sites of the paper's Table 4 and Fig. 10; 4 mm grid, sized for a CPU.
Own data: --config.data.participants=participants.tsv (BIDS layout; columns site, age, dx)
Time:     about 3 minutes on 2 CPU cores. Only 25 subjects have AD: expect wide intervals.
Variant:  configs/adcp.py:paper carries the paper's protocol: 91x109x91 at 2 mm, 150 epochs, batch 32 (accelerator).
"""

from ml_collections import ConfigDict

from eqpool.config import check_variant, default_config, use_published_form


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` "" or "paper"."""
    check_variant("adcp", variant)
    config = default_config()
    config.name = "adcp"
    config.data.dataset = "adcp"
    config.model.latent_dim = 64
    config.model.hidden_units = 128
    config.stage_one.update(
        epochs=14,
        batch_size=16,
        learning_rate=2e-3,
        decay_every_epochs=4,
        equivariance_weight=0.02,
        reconstruction_weight=1.0,
        prediction_weight=1.0,
    )
    config.stage_two.update(
        epochs=300,
        batch_size=512,
        learning_rate=2e-3,
        decay_every_epochs=40,
        mmd_weight=20.0,
        reconstruction_weight=3.0,
    )
    config.baseline.update(epochs=14, batch_size=16, learning_rate=2e-3, decay_every_epochs=4)
    for stage in (config.stage_one, config.baseline):
        stage.checkpoint_every_epochs = 1
    if variant == "paper":
        use_published_form(config, ramp_growth=1.2, ramp_ceiling=1.0)
        config.data.grid = "mni_2mm"
        for stage in (config.stage_one, config.stage_two, config.baseline):
            stage.update(epochs=150, batch_size=32, learning_rate=3e-4, decay_every_epochs=10)
    return config
