"""Data, methods, settings and published numbers of the experiments in comparison.py."""

import dataclasses
from typing import Any, NamedTuple

_COMBAT = "combat_naive"  # the naive encoder on inputs that ComBat corrected
METHODS = ("naive", _COMBAT, "mmd", "cai", "ss", "rm", "ours")
_SITE_WEIGHTS = (0.1, 1.0, 10.0)


class Column(NamedTuple):
    """A column of the table, with its label, key in results.json and number of digits."""

    label: str
    key: str
    digits: int


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Specification of one comparison.

    Attributes:
      config: name of a file in configs/.
      paper: the paper's cells as printed, by method. Methods that the paper lacks are absent.
      columns: columns of the table.
      mmd_weights: candidate MMD weights of stage two for our method. The baselines choose from `_SITE_WEIGHTS`.
      volumes: True for random splits of a cohort of volumes, False for three seeds of a table with its own split.
      fixed: dotted config keys that every run shares.
      methods: methods that are compared by default.
      own: description of the data if the user has to provide a table, or "" if simulated data are the default.
    """

    config: str
    paper: dict[str, str]
    columns: tuple[Column, ...]
    mmd_weights: tuple[float, ...]
    volumes: bool = True
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)
    methods: tuple[str, ...] = METHODS
    own: str = ""

    def settings(self, method: str) -> list[dict[str, Any]]:
        """Returns the candidate settings of a method, as dotted config keys. A naive encoder has only one."""
        if method in ("naive", _COMBAT):
            return [{}]
        if method == "ours":
            return [{"stage_two.mmd_weight": weight} for weight in self.mmd_weights]
        return [{"baseline.site_weight": weight} for weight in _SITE_WEIGHTS]

    def always(self, method: str) -> dict[str, Any]:
        """Returns the dotted config keys of every run of a method of the table."""
        return {"method": "naive", "data.site_calibration": "combat"} if method == _COMBAT else {"method": method}


_SHARED = (
    Column("delta_eq ↑", "delta_eq", 2),
    Column("ratio to permuted ↑", "delta_eq_ratio_to_permuted", 2),
    Column("equivariance error ↓", "equivariance_error", 2),
    Column("its floor", "equivariance_error_floor", 2),
    Column("Adv % ↓", "adversary", 1),
)
_TABLE_COLUMNS = (
    *_SHARED,
    Column("Adv AUC ↓", "adversary_auc", 2),
    Column("strongest probe ↓", "strongest_probe", 3),
    Column("its AUC ↓", "strongest_probe_auc", 3),
    Column("site floor", "site_floor", 3),
    Column("M unbiased ↓", "mmd", 2),
    Column("p ↑", "mmd_p_value", 3),
    Column("M published ↓", "mmd_published", 2),
    Column("M at equal covariates ↓", "mmd_conditional", 2),
    Column("by chance", "mmd_conditional_by_chance", 2),
    Column("M of covariates alone", "mmd_floor", 2),
    Column("ACC ↑", "accuracy", 1),
    Column("rows dropped", "dropped_without_partner", 0),
)
_VOLUME_COLUMNS = (
    *_SHARED,
    Column("site from Phi ↓", "strongest_probe", 3),
    Column("site floor", "site_floor", 3),
    Column("site from tau^-1 Phi ↓", "strongest_probe_covariate_free", 3),
    Column("of shuffled sites", "strongest_probe_covariate_free_shuffled", 3),
    Column("M unbiased ↓", "mmd", 2),
    Column("M published ↓", "mmd_published", 2),
    Column("M at equal covariates ↓", "mmd_conditional", 2),
    Column("by chance", "mmd_conditional_by_chance", 2),
    Column("M of covariates alone", "mmd_floor", 2),
    Column("M of tau^-1 Phi ↓", "mmd_covariate_free", 2),
    Column("ACC % ↑", "accuracy", 1),
    Column("age MAE ↓", "kept_age_mae", 2),
)
_VOLUME_WEIGHTS = (5.0, 20.0, 80.0)

# The cohort has only some tens of subjects. More epochs give the usual number of steps, and a dozen validation rows are
# too few to choose an epoch.
_LONGER = {"epochs": 42, "decay_every_epochs": 12, "checkpoint_every_epochs": 6, "keep_epoch": "last"}
_LONGER_RUNS = {f"{stage}.{key}": value for stage in ("stage_one", "baseline") for key, value in _LONGER.items()}

_PAPER_ADNI = {
    "naive": "3.1 (1.0), 59 (2.9), 27 (1.6), 80 (2.6)",
    "mmd": "3.1 (1.0), 59 (3.3), 27 (1.7), 80 (2.6)",
    "cai": "2.4 (0.7), 61 (2.1), 27 (1.5), 74 (3.6)",
    "ss": "3.7 (0.5), 57 (2.1), 26 (1.6), 81 (3.7)",
    "rm": "0.8 (0.9), 52 (5.4), 22 (0.6), 78 (3.8)",
    "ours": "5.1 (1.2), 50 (4.2), 16 (7.2), 77 (4.8)",
}

SPECS = {
    "table2_german": Comparison(
        config="german",
        columns=_TABLE_COLUMNS,
        mmd_weights=(0.02, 0.1, 1.0),
        volumes=False,
        paper={
            "naive": "4.6 (0.7), 0.62 (0.03), 7.7 (0.8), 74 (0.9)",
            "mmd": "4.5 (1.0), 0.66 (0.04), 1.5 (0.3), 73 (1.5)",
            "cai": "1.9 (0.6), 0.65 (0.01), 1.2 (0.2), 76 (1.3)",
            "ss": "3.8 (0.5), 0.70 (0.07), 1.5 (0.6), 76 (0.9)",
            "rm": "3.4 (0.4), 0.66 (0.04), 7.5 (0.9), 74 (2.1)",
            "ours": "6.4 (0.6), 0.54 (0.01), 2.7 (0.6), 75 (3.3)",
        },
    ),
    "table2_adult": Comparison(
        config="adult",
        columns=_TABLE_COLUMNS,
        mmd_weights=(2.0, 5.0, 15.0),
        volumes=False,
        paper={
            "naive": "3.4 (0.7), 83 (0.1), 9.8 (0.3), 84 (0.1)",
            "mmd": "3.4 (0.9), 83 (0.1), 3.1 (0.3), 84 (0.1)",
            "cai": "0.1 (0.0), 81 (0.7), 4.2 (2.4), 84 (0.04)",
            "ss": "2.8 (0.5), 83 (0.2), 1.5 (0.2), 84 (0.1)",
            "rm": "0.8 (0.1), 82 (0.4), 4.8 (0.7), 84 (0.3)",
            "ours": "5.3 (0.9), 75 (1.4), 7.1 (0.6), 83 (0.1)",
        },
    ),
    "table2_adni": Comparison(
        config="adni",
        columns=_VOLUME_COLUMNS,
        mmd_weights=_VOLUME_WEIGHTS,
        paper=_PAPER_ADNI,
    ),
    # Scanners have like ages, as the paper words it: site explains at most 2 % of the variance of age.
    "table2_adni_matched": Comparison(
        config="adni",
        columns=_VOLUME_COLUMNS,
        mmd_weights=_VOLUME_WEIGHTS,
        paper=_PAPER_ADNI,
        fixed={"data.dataset": "adni_matched"},
    ),
    "table2_adcp": Comparison(
        config="adcp",
        columns=_VOLUME_COLUMNS,
        mmd_weights=_VOLUME_WEIGHTS,
        paper={
            "naive": "4.1 (0.9), 49 (8.4), 90 (8.7), 83 (4.4)",
            "mmd": "3.6 (1.0), 49 (11.9), 86 (11.0), 84 (6.5)",
            "cai": "2.8 (1.6), 56 (6.9), 85 (12.3), 82 (5.1)",
            "ss": "3.4 (1.3), 51 (6.7), 88 (14.6), 82 (3.5)",
            "rm": "0.4 (0.5), 40 (4.7), 77 (13.8), 84 (5.3)",
            "ours": "7.5 (1.2), 49 (7.3), 70 (22.3), 81 (1.8)",
        },
    ),
    # Counts and scanners are those of ADNI. Ages are cut so that two scanners overlap by at most three years.
    "small_support": Comparison(
        config="adni",
        columns=_VOLUME_COLUMNS,
        mmd_weights=_VOLUME_WEIGHTS,
        paper={"naive": "M 27", "ours": "M 16"},
        fixed={"data.dataset": "adni_small_support"},
        methods=("naive", "ours"),
    ),
    # `python -m eqpool.commands.rescan` writes the table. Aligning the volumes to the template needs the extra "align".
    "rescanned": Comparison(
        config="adni",
        columns=_VOLUME_COLUMNS,
        mmd_weights=_VOLUME_WEIGHTS,
        own="Real brains, the second scanner SIMULATED",
        paper={},
        fixed={"data.target": "sex", "data.align": "affine"} | _LONGER_RUNS,
        methods=("naive", "ours"),
    ),
}
