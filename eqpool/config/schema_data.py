"""Defines the keys of `config.data`."""

import dataclasses
from typing import Literal

from eqpool.config.schema_fields import number

Dataset = Literal[
    "adni",
    "adni_small_support",
    "adni_matched",
    "adcp",
    "brain_sex",
    "brain_age",
    "german",
    "adult",
    "morpho_mnist",
    "fcon1000",
    "abide1",
    "ixi_thickness",
    "participants",
]
COHORTS = ("fcon1000", "abide1", "ixi_thickness")  # real tables without a download
Domain = Literal["thin", "thick", "slanted", "thick_slanted"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data to pool. An empty string means "not given"."""

    # Data set. adni, adni_small_support, adni_matched, adcp and brain_* are simulated unless participants is given
    dataset: Dataset = "participants"
    # Folder with the raw files of a data set, instead of a download. fcon1000, abide1 and ixi_thickness need it
    raw_dir: str = ""
    participants: str = ""  # Table of the scans, participants.tsv or .csv, with one row for each scan
    root: str = ""  # Folder of the images. Default: the folder of participants
    # What to do with a path in the table that leads out of root, such as one with ../ or a leading /
    outside_root: Literal["refuse", "allow"] = "refuse"
    site_column: str = "site"  # Column with the site or scanner
    # Columns whose effects are kept, separated by commas. They are numeric unless marked: age,sex:categorical. Here and
    # in nuisances, described and features, put a name with a comma or a colon in double quotes: "age, years"
    covariates: str = "age"
    # Categorical columns that Phi should not predict either, such as sex, separated by commas
    nuisances: str = ""
    target: str = "dx"  # Column to predict, such as a diagnosis
    # Type of the target. auto: text, and whole numbers of at most 10 levels, are classes
    target_type: Literal["auto", "classes", "number"] = "auto"
    # Numeric columns that the report shows by site, such as mmse, separated by commas. No network is trained on them
    described: str = ""
    # Feature columns, or patterns such as *_thickness, separated by commas. They make the cohort a table, not volumes
    features: str = ""
    # Correction of each site before training (docs/own_data.md). location, location_scale: of each feature or voxel.
    # covariance: for tables, the sites' covariances too. auto: for tables, the covariances as far as held-out training
    # rows support it, and for volumes location_scale. combat: ComBat that keeps covariates and target, for volumes,
    # german and adult. by_method: auto for ours, none for the other methods
    site_calibration: Literal["none", "location", "location_scale", "covariance", "auto", "combat", "by_method"] = (
        "none"
    )
    # Site that the calibration leaves unchanged and brings the other sites to. Default: the average of all sites
    reference: str = ""
    # Rows from which the calibration is estimated, as column:label, such as dx:CN. It is applied to all rows. Rows of
    # one participant_id share a random effect in every estimate of sites, and lie in one split
    fit_on: str = ""
    # Grid of the volumes: a name (mni_4mm, mni_2mm, 64), or a shape such as 32x32x32, 32x32x32@6 with voxels of 6 mm,
    # or 32x40x32@1@-26,-20,-14 for a crop with its corner in mm
    grid: str = "mni_4mm"
    on_bad_volume: Literal["stop", "skip"] = "stop"  # What to do with a volume that cannot be used
    # Registration of each volume to the template before all other steps. auto: affine if more than a tenth of the
    # volumes overlap the template's brain mask with a Dice below 0.85
    align: Literal["none", "affine", "auto"] = "none"
    # Volumes: take tanh of the z-scores, for networks with outputs in [-1, 1]
    squash: bool = False
    # german, adult: a split of the raw files, or the published split
    split: Literal["raw", "published"] = "raw"
    source_domain: Domain = "thin"  # morpho_mnist: domain whose labels are used in training
    target_domain: Domain = "thick"  # morpho_mnist: domain whose labels are used only for scores
    # morpho_mnist: number of training digits, half of them for each domain. A tenth is for validation
    train_digits: int = number(60_000, 20)
    test_digits: int = number(10_000, 10)  # morpho_mnist: number of test digits. Each appears in both domains
    split_seed: int = 0  # Seed of the split. It belongs to the data, so that another config.seed keeps the split
    # Strata of the split: site and target, or site alone
    balance: Literal["site_and_target", "site"] = "site_and_target"
    test_fraction: float = number(0.2, 0.0, 0.9)  # Share of the people that is held out for all scores
    validation_fraction: float = number(0.1, 0.0, 0.9)  # Share of the people on which epochs and settings are chosen
    simulated_fraction: float = number(1.0, 0.0, 1.0)  # Share of each simulated site that is built
    # Threads that prepare volumes, or processes that draw digits. 0: one for each core
    workers: int = number(0, 0)
