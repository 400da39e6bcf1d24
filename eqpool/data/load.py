"""The entry point for data: from a checked `DataConfig` to a `Cohort`."""

import dataclasses
import pathlib

from eqpool.config import COHORTS, DataConfig
from eqpool.data.cohort import Cohort
from eqpool.data.sources.morpho_mnist import load_morpho_mnist
from eqpool.data.sources.participants_folder import load_participants
from eqpool.data.sources.published import load_published
from eqpool.data.sources.simulated import COGNITIVE_SCORE, SPECIFICATIONS, build_simulated_cohort
from eqpool.data.sources.table_calibration import with_combat
from eqpool.data.sources.uci import load_uci
from eqpool.data.volumes.grids import named_grid
from eqpool.errors import InputError, to_path

SIMULATION_SEED = 0  # fixed, so that splits with different seeds are of the same cohort


def load_cohort(config: DataConfig, cache_dir: pathlib.Path, progress: bool = True) -> Cohort:
    """Reads, checks, splits and scales the data of a configuration.

    If `config.participants` is given, it is read whatever the data set's name. Otherwise "german" and "adult" are read
    from UCI's raw files, the cohorts of `config.COHORTS` from `config.raw_dir`, "morpho_mnist" is drawn from MNIST's
    files, and all other cohorts, such as "adni" and "adcp", are simulated in the cache folder.

    Args:
      config: checked configuration of the data.
      cache_dir: folder for prepared volumes, simulated cohorts and downloads.
      progress: whether to show bars for long work on stderr if that is a terminal.

    Raises:
      InputError: if the data cannot be used, in one line that names the file, row, column or key, the found and the
        expected value.
    """
    if config.participants or config.dataset in COHORTS:
        return load_participants(_own(config), pathlib.Path(cache_dir), progress)
    if config.dataset == "morpho_mnist":
        return _load_digits(config, pathlib.Path(cache_dir), progress)
    if config.dataset in ("german", "adult"):
        return _load_public(config, pathlib.Path(cache_dir))
    return _load_simulated(config, pathlib.Path(cache_dir), progress)


def _own(config: DataConfig) -> DataConfig:
    """Returns a configuration with the table of a named cohort, in `config.raw_dir` or the folder of its name there."""
    if config.participants:
        return config
    folder = to_path(config.raw_dir)
    places = [folder / config.dataset / "participants.tsv", folder / "participants.tsv"]
    found = [path for path in places if config.raw_dir and path.is_file()]
    if not found:
        raise InputError(
            f'config.data.raw_dir = "{config.raw_dir}": no participants.tsv of {config.dataset} there, which cannot be '
            "downloaded; expected the folder that holds it, or its path in config.data.participants"
        )
    return dataclasses.replace(config, participants=str(found[0]))


def _load_public(config: DataConfig, cache_dir: pathlib.Path) -> Cohort:
    if config.split == "published":
        cohort = load_published(config.dataset, config.raw_dir)
    else:
        cohort = load_uci(config.dataset, config.raw_dir, cache_dir, config.split_seed)
    return with_combat(cohort) if config.site_calibration == "combat" else cohort


def _load_digits(config: DataConfig, cache_dir: pathlib.Path, progress: bool) -> Cohort:
    return load_morpho_mnist(
        config.raw_dir,
        cache_dir,
        source=config.source_domain,
        target=config.target_domain,
        train_count=config.train_digits,
        test_count=config.test_digits,
        seed=config.split_seed,
        workers=config.workers,
        progress=progress,
    )


def _load_simulated(config: DataConfig, cache_dir: pathlib.Path, progress: bool) -> Cohort:
    folder = build_simulated_cohort(
        cache_dir / "simulated",
        SPECIFICATIONS[config.dataset],
        named_grid(config.grid),
        seed=SIMULATION_SEED,
        fraction=config.simulated_fraction,
        workers=config.workers,
        progress=progress,
    )
    described = config.described or COGNITIVE_SCORE
    config = dataclasses.replace(config, participants=str(folder / "participants.tsv"), root="", described=described)
    cohort = load_participants(config, cache_dir, progress, simulated=True)
    note = f"SIMULATED images, shaped like {config.dataset.upper()}; the truth is in {folder / 'derivatives' / 'truth'}"
    return dataclasses.replace(cohort, notes=(note, *cohort.notes))
