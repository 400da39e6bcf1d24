"""The files of a work directory that the report reads."""

import dataclasses
import pathlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from eqpool.config.methods import makes_latents
from eqpool.config.names import split_names
from eqpool.errors import InputError
from eqpool.report.brain_maps import read_maps
from eqpool.storage.files import read_arrays, read_json
from eqpool.storage.run_folder import OVERLAP_COLUMN, WHO, RunFolder

_MOST_SPREADS = 6  # panels; more are drawn only if more columns are described


@dataclasses.dataclass(frozen=True)
class WorkFolder:
    """The files of a finished run.

    Attributes:
      folder: work directory.
      config, results: config.json and results.json.
      facts: model.json, which names the covariates and the target. It is empty for a run of an older version.
      log: metrics.jsonl, one row per epoch.
      pooled: pooled.tsv, or None for a run of an older version.
      embeddings: embeddings.tsv, or None for an ISTN, which has none.
      examples: images/examples.npz of an ISTN, or None for other methods.
      maps: maps/maps.json, or None if `eqpool.maps` was not run.
      tau: images/tau.npz, with `rows` (T,) of the embeddings and their `tau` (T, n, n), or None for a baseline.
      samples: images/samples.npz, slices of a few held-out volumes, or None for tables and baselines.
      compared: runs on the same rows, in the same order.
    """

    folder: RunFolder
    config: dict[str, Any]
    results: dict[str, Any]
    facts: dict[str, Any]
    log: pd.DataFrame
    pooled: pd.DataFrame | None
    embeddings: pd.DataFrame | None
    examples: dict[str, np.ndarray] | None
    maps: dict[str, Any] | None = None
    tau: dict[str, np.ndarray] | None = None
    samples: dict[str, np.ndarray] | None = None
    compared: tuple["WorkFolder", ...] = ()

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of results.json."""
        return self.results["metrics"]

    @property
    def spreads(self) -> pd.DataFrame:
        """The columns (N, D) that are drawn by site: the described columns, then covariates and a numeric target.

        At least one covariate or target is always drawn, and more of them if there is room. Covariates and targets with
        two values, and classes that are coded as numbers, are left out, because their density is not informative.
        """
        assert self.pooled is not None
        described, others = self._spread_names
        return self.pooled[[*described, *others[: _room(described)]]]

    @property
    def spreads_left_out(self) -> list[str]:
        """The columns for which `spreads` had no room."""
        described, others = self._spread_names
        return others[_room(described) :]

    @property
    def _spread_names(self) -> tuple[list[str], list[str]]:
        """The described columns with any value, and the other numeric columns with more than two values."""
        assert self.pooled is not None
        columns = [name for name in self.pooled.columns if name not in WHO]
        covariates = self.facts.get("covariate_names")
        if covariates is None:  # a run of an older version does not record the described columns
            return [], self._numbers(columns, more_than=2)
        target = self.facts["target_name"]
        described = self._numbers([name for name in columns if name not in {*covariates, target}], more_than=0)
        return described, self._numbers([*covariates, *([] if self.facts["target_classes"] else [target])], more_than=2)

    def _numbers(self, names: Iterable[str], *, more_than: int) -> list[str]:
        """Returns the numeric columns among `names` that have more than `more_than` distinct values."""
        assert self.pooled is not None
        table = self.pooled[list(names)].select_dtypes("number")
        return list(table.columns[table.nunique() > more_than])

    @property
    def keeps_last(self) -> list[str]:
        """The stages that keep their last epoch, whatever its validation score."""
        groups = {name: group for name, group in self.config.items() if isinstance(group, dict)}
        return [name for name, group in groups.items() if group.get("keep_epoch") == "last"]

    @property
    def table(self) -> pd.DataFrame:
        """The embeddings of a run that has them."""
        assert self.embeddings is not None
        return self.embeddings

    @property
    def covariate(self) -> str:
        """The first covariate's column. For a run of an older version it is the first column after `WHO`."""
        named = self.facts.get("covariate_names")
        return named[0] if named else next(name for name in self.table.columns if name not in WHO)

    @property
    def target(self) -> str:
        """The target's name, or "" if there is none or it is not known."""
        return self.facts.get("target_name", "")

    @property
    def covariate_values(self) -> np.ndarray:
        """The first covariate, (N,)."""
        return self.table[self.covariate].to_numpy()

    @property
    def sites(self) -> np.ndarray:
        """The site of every row, (N,)."""
        return self.table["site"].to_numpy(dtype=np.str_)

    @property
    def site_names(self) -> list[str]:
        """The names of all sites, sorted. The index of a site determines its style."""
        return sorted(set(self.sites))

    def rows(self, split: str) -> np.ndarray:
        """Returns the row indices of one split."""
        return np.flatnonzero(self.table["split"] == split)

    @property
    def non_finite_rows(self) -> int:
        """The number of rows with a value of l or Phi that is not finite, or 0 if there are no embeddings."""
        if self.embeddings is None:
            return 0
        finite = [np.isfinite(self.vectors(prefix)).all(axis=1) for prefix in ("l", "phi")]
        return int(np.sum(~np.logical_and(*finite)))

    def vectors(self, prefix: str) -> np.ndarray:
        """Returns the columns `l_*` or `phi_*` of the embeddings, (N, n)."""
        return self.table.filter(regex=f"^{prefix}_[0-9]+$").to_numpy()


def read_workfolder(folder: pathlib.Path) -> WorkFolder:
    """Reads the files of a finished run.

    Raises:
      InputError: a file is missing, or lacks a column. The message names the file.
    """
    run = RunFolder(folder)
    _check_there(folder, run.config_file, run.results_file)
    config, results = read_json(run.config_file), read_json(run.results_file)
    if makes_latents(results.get("method", "")):
        _check_there(folder, run.embeddings_file)
    facts = read_json(run.model_file) if run.model_file.is_file() else {}  # missing in runs of older versions
    covariates, described = facts.get("covariate_names", []), split_names(config["data"].get("described", ""))
    own = {*covariates, facts.get("target_name", ""), *described}
    beside = {"session_id", OVERLAP_COLUMN} - own  # columns of some tables that no figure shows
    log = run.metrics_file  # missing if the run trained no epochs
    return WorkFolder(
        folder=run,
        config=config,
        results=results,
        facts=facts,
        log=pd.read_json(log, lines=True) if log.is_file() else pd.DataFrame(columns=["stage"]),
        pooled=_table_if_there(run.pooled_file, WHO, beside),
        embeddings=_table_if_there(run.embeddings_file, (*WHO, *covariates, "l_0", "phi_0"), beside),
        examples=_arrays_if_there(run.examples_file),
        maps=read_maps(run),
        tau=_arrays_if_there(run.tau_file),
        samples=_arrays_if_there(run.samples_file),
    )


def _check_there(folder: pathlib.Path, *needed: pathlib.Path) -> None:
    for path in needed:
        if not path.is_file():
            raise InputError(f"--workdir={folder}: {path.name} not found; expected the folder of a finished run")


def _room(described: list[str]) -> int:
    """Returns the number of columns that are drawn by site in addition to the described ones."""
    return max(1, _MOST_SPREADS - len(described))


def _table_if_there(path: pathlib.Path, needed: Sequence[str], beside: Collection[str]) -> pd.DataFrame | None:
    """Reads a table of the run without the columns `beside`, or returns None if there is no such file.

    Raises:
      InputError: the file is not a table, or lacks a `needed` column.
    """
    if not path.is_file():
        return None
    try:
        # Names are read as text, because site 007 is not site 7.
        table = pd.read_csv(path, sep="\t", keep_default_na=False, na_values=[""], dtype=dict.fromkeys(WHO, str))
    except ValueError as error:  # an empty file, lines of different lengths, or a file that is not text
        raise InputError(f"{path}: expected a table ({error})") from None
    for name in needed:
        if name not in table:
            raise InputError(f"{path}: no column {name}, expected the table that the run wrote")
    return table.drop(columns=list(beside), errors="ignore")


def _arrays_if_there(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    return read_arrays(path) if path.is_file() else None
