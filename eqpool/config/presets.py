"""Settings shared by several files in `configs/`. Each function changes a `ConfigDict` in place."""

from ml_collections import ConfigDict


def check_variant(name: str, variant: str) -> None:
    """Checks the variant of a shipped config, which is "" or "paper".

    Raises:
      ValueError: another variant was requested.
    """
    if variant not in ("", "paper"):
        raise ValueError(f"configs/{name}.py:{variant}: expected configs/{name}.py or configs/{name}.py:paper")


def use_published_form(config: ConfigDict, *, ramp_growth: float, ramp_ceiling: float) -> None:
    """Sets the published form of Lokhande et al. 2022, with the weights of its code (docs/method.md, section 7).

    The ramp differs between data sets.
    """
    config.name = f"{config.name}_paper"
    config.model.phi = "free"
    config.stage_one.update(equivariance_weight=4.0, reconstruction_weight=0.01, prediction_weight=1.0)
    config.model.decoder_ridge = 0.0
    config.stage_two.update(
        reconstruction_weight=0.1,
        mmd_weight=0.02,
        mmd_match="phi",
        keep_epoch="best",
        stretch_tau="none",
        mmd_ramp_start=0.1,
        mmd_ramp_growth=ramp_growth,
        mmd_ramp_ceiling=ramp_ceiling,
        kernel="laplacian",
        bandwidth="1.0",
        estimator="biased",
        decay_every_epochs=10,
    )
    config.baseline.update(kernel="laplacian", bandwidth="10.0", estimator="biased")


def use_brain_istn(config: ConfigDict, variant: str) -> None:
    """Sets the shared settings of the two brain tasks of Robinson et al. 2020.

    The default variant has 32^3 voxels for a CPU. The variant "paper" follows the paper's protocol.
    """
    config.method = "istn"
    config.data.update(squash=True, balance="site")  # so that the reference's labels choose none of its images
    config.task.update(epochs=100, batch_size=16, learning_rate=1e-3, checkpoint_every_epochs=20)
    if variant == "paper":
        config.name = f"{config.name}_paper"
        config.data.grid = "64"
        config.task.learning_rate_decay = 1.0
        config.istn.update(
            epochs=50, batch_size=16, learning_rate=1e-4, learning_rate_decay=1.0, momentum=0.5,
            task_learning_rate=1e-4, checkpoint_every_epochs=5,
        )  # fmt: skip
        return
    config.data.grid = "32x32x32"
    config.task.update(epochs=60, validate_every_epochs=1, patience=20, average_decay=0.98)
    # With a few hundred brains, a discriminator of the size of Table 6 memorises them and training diverges. With
    # batches of 4 the adversarial game oscillates, and the mean of its weights is better than the weights at any step.
    config.istn.update(
        shape="none", epochs=20, batch_size=4, learning_rate=4e-4, learning_rate_decay=0.9, decay_every_epochs=1,
        momentum=0.5, average_decay=0.98, image_weight=200.0, change_weight=2.0, residual=True, dropout=0.0,
        discriminator=(8, 16, 32, 64, 64), discriminator_norm="none", gradient_penalty=3.0, instance_noise=0.15,
        validate_every_epochs=1, checkpoint_every_epochs=2,
    )  # fmt: skip


def use_volume_pooling(config: ConfigDict, variant: str, paper_batch_size: int) -> None:
    """Sets both stages and the baselines for T1 volumes: 4 mm voxels for a CPU, or the paper's protocol."""
    config.data.site_calibration = "by_method"
    config.model.update(latent_dim=64, hidden_units=128)
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
        keep_epoch="last",
        stretch_tau="validation",  # a few hundred volumes determine age in part, and the encoder overfits them
    )
    # Of ADNI's 315 training rows: 580 steps, as both stages together, and the last epoch as in stage two.
    config.baseline.update(epochs=29, batch_size=16, learning_rate=2e-3, decay_every_epochs=8, keep_epoch="last")
    for stage in (config.stage_one, config.baseline):
        stage.checkpoint_every_epochs = 1
    config.evaluate.probe_permutations = 20  # few held-out rows: the strongest probe's chance level is not 1 / sites
    if variant == "paper":
        use_published_form(config, ramp_growth=1.2, ramp_ceiling=1.0)
        config.data.site_calibration = "none"
        config.data.grid = "mni_2mm"
        config.baseline.keep_epoch = "best"
        for stage in (config.stage_one, config.stage_two, config.baseline):
            stage.update(epochs=150, batch_size=paper_batch_size, learning_rate=3e-4, decay_every_epochs=10)


def use_freesurfer_pooling(config: ConfigDict, variant: str) -> None:
    """Sets site calibration, both stages and the baselines for tables of FreeSurfer features (experiments/cohorts)."""
    config.data.update(features="*_thickness,*-*,*Ventricle", site_calibration="by_method")
    config.model.tau = "covariate"
    config.stage_one.update(
        epochs=150,
        batch_size=128,
        learning_rate=2e-3,
        decay_every_epochs=20,
        equivariance_weight=0.1,
        reconstruction_weight=1.0,
        prediction_weight=0.3,
        mmd_weight=0.5,
    )
    config.stage_two.update(
        epochs=150,
        batch_size=512,
        learning_rate=2e-3,
        decay_every_epochs=20,
        prediction_weight=0.3,
        reconstruction_weight=10.0,
        mmd_weight=0.5,
    )
    config.baseline.update(epochs=188, learning_rate=2e-3, decay_every_epochs=25)  # as many steps as both stages
    config.evaluate.update(probe_seeds=1)
    if variant == "paper":
        config.data.site_calibration = "none"
        config.model.tau = "free"
        config.stage_one.mmd_weight = 0.0
        use_published_form(config, ramp_growth=1.5, ramp_ceiling=25.0)
