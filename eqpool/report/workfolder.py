"""What the report reads of a work directory."""

import dataclasses
import pathlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from eqpool.config.names import split_names
from eqpool.errors import InputError
from eqpool.report.brain_maps import read_maps
from eqpool.storage.files import read_arrays, read_json
from eqpool.storage.run_folder import OVERLAP_COLUMN, WHO, RunFolder

MOST_SPREADS = 6  # panels, unless more columns than that are described


@dataclasses.dataclass(frozen=True)
class WorkFolder:
    """A finished run's files.

    Attributes:
      folder: the work directory.
      config, results: config.json and results.json.
      facts: model.json, which names covariates and target; empty for a run of an older version.
      log: metrics.jsonl, one row an epoch.
      pooled: pooled.tsv; None for a run of an older version.
      embeddings: embeddings.tsv; None for an ISTN, which has none.
      examples: images/examples.npz of an ISTN; None for other methods.
      tau: images/tau.npz, `rows` (T,) of the embeddings and their `tau` (T, n, n); None for a baseline.
      samples: images/samples.npz, slices of a few held-out volumes; None for tables and baselines.
      maps: maps/maps.json where `eqpool.maps` was run; else None.
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
        """Those of results.json."""
        return self.results["metrics"]

    @property
    def spreads(self) -> pd.DataFrame:
        """(N, D) what is drawn by site: every described column, then covariates and a numeric target, in their order.

        Of these the first is always among them, and others where there is room. Neither what takes two values nor
        classes that are coded as numbers: a density of them says nothing.
        """
        assert self.pooled is not None
        described, others = self._spread_names
        return self.pooled[[*described, *others[: _room(described)]]]

    @property
    def spreads_left_out(self) -> list[str]:
        """Those that `spreads` had no room for."""
        described, others = self._spread_names
        return others[_room(described) :]

    @property
    def _spread_names(self) -> tuple[list[str], list[str]]:
        """Described columns with any value, and what else is a number that takes more than two values."""
        assert self.pooled is not None
        columns = [name for name in self.pooled.columns if name not in WHO]
        covariates = self.facts.get("covariate_names")
        if covariates is None:  # which columns are described is not known
            return [], self._numbers(columns, more_than=2)
        target = self.facts["target_name"]
        described = self._numbers([name for name in columns if name not in {*covariates, target}], more_than=0)
        return described, self._numbers([*covariates, *([] if self.facts["target_classes"] else [target])], more_than=2)

    def _numbers(self, names: Iterable[str], *, more_than: int) -> list[str]:
        """Those of `names` that are columns of numbers with more than so many values."""
        assert self.pooled is not None
        table = self.pooled[list(names)].select_dtypes("number")
        return list(table.columns[table.nunique() > more_than])

    @property
    def keeps_last(self) -> list[str]:
        """The stages of which the last epoch was kept, whatever its validation score."""
        groups = {name: group for name, group in self.config.items() if isinstance(group, dict)}
        return [name for name, group in groups.items() if group.get("keep_epoch") == "last"]

    @property
    def table(self) -> pd.DataFrame:
        """The embeddings, where there are any."""
        assert self.embeddings is not None
        return self.embeddings

    @property
    def covariate(self) -> str:
        """The first covariate's column; a run of before does not name it, but has it after `WHO`."""
        named = self.facts.get("covariate_names")
        return named[0] if named else next(name for name in self.table.columns if name not in WHO)

    @property
    def target(self) -> str:
        """The target's name; "" where there is none, or it is not known."""
        return self.facts.get("target_name", "")

    @property
    def covariate_values(self) -> np.ndarray:
        """(N,) the first covariate."""
        return self.table[self.covariate].to_numpy()

    @property
    def sites(self) -> np.ndarray:
        """(N,) the site of every row."""
        return self.table["site"].to_numpy(dtype=np.str_)

    @property
    def site_names(self) -> list[str]:
        """Every site, in order; its place says its style."""
        return sorted(set(self.sites))

    def rows(self, split: str) -> np.ndarray:
        """The row indices of one split."""
        return np.flatnonzero(self.table["split"] == split)

    @property
    def non_finite_rows(self) -> int:
        """How many rows have a latent, l or Phi, with a value that is not finite; 0 where there are no embeddings."""
        if self.embeddings is None:
            return 0
        finite = [np.isfinite(self.vectors(prefix)).all(axis=1) for prefix in ("l", "phi")]
        return int(np.sum(~np.logical_and(*finite)))

    def vectors(self, prefix: str) -> np.ndarray:
        """(N, n) columns `l_*` or `phi_*` of the embeddings."""
        return self.table.filter(regex=f"^{prefix}_[0-9]+$").to_numpy()


def read_workfolder(folder: pathlib.Path) -> WorkFolder:
    """Reads a finished run.

    Raises:
      InputError: naming the file that is missing, or lacks a column.
    """
    run = RunFolder(folder)
    needed = [run.config_file, run.results_file, *([] if run.examples_file.is_file() else [run.embeddings_file])]
    for path in needed:
        if not path.is_file():
            raise InputError(f"--workdir={folder}: {path.name} not found; expected the folder of a finished run")
    config, results = read_json(run.config_file), read_json(run.results_file)
    facts = read_json(run.model_file) if run.model_file.is_file() else {}  # a run of before has none
    covariates, described = facts.get("covariate_names", []), split_names(config["data"].get("described", ""))
    own = {*covariates, facts.get("target_name", ""), *described}
    beside = {"session_id", OVERLAP_COLUMN} - own  # what some tables alone have and no figure shows
    log = run.metrics_file  # a run of no epochs has none
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


def _room(described: list[str]) -> int:
    """How many columns beside the described ones are drawn by site."""
    return max(1, MOST_SPREADS - len(described))


def _table_if_there(path: pathlib.Path, needed: Sequence[str], beside: Collection[str]) -> pd.DataFrame | None:
    """Who, split, site, then numbers; without the columns `beside`.

    Raises:
      InputError: it is no table, or lacks a column that is `needed`.
    """
    if not path.is_file():
        return None
    try:
        # Names are text: site 007 is not site 7.
        table = pd.read_csv(path, sep="\t", keep_default_na=False, na_values=[""], dtype=dict.fromkeys(WHO, str))
    except ValueError as error:  # no line, lines of several lengths, or no text
        raise InputError(f"{path}: expected a table ({error})") from None
    for name in needed:
        if name not in table:
            raise InputError(f"{path}: no column {name}, expected the table that the run wrote")
    return table.drop(columns=list(beside), errors="ignore")


def _arrays_if_there(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    return read_arrays(path) if path.is_file() else None
