"""What the report reads of a work directory."""

import dataclasses
import json
import pathlib
from typing import Any

import pandas as pd

from eqpool.errors import InputError


@dataclasses.dataclass(frozen=True)
class WorkFolder:
    """A finished run's files.

    Attributes:
      folder: the work directory.
      config, results: config.json and results.json.
      metrics: metrics.jsonl, one row an epoch.
      embeddings: embeddings.tsv.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    results: dict[str, Any]
    metrics: pd.DataFrame
    embeddings: pd.DataFrame

    @property
    def covariate(self) -> str:
        """The first covariate's column."""
        return self.embeddings.columns[3]

    def vectors(self, prefix: str):
        """(N, n) columns `l_*` or `phi_*` of the embeddings."""
        return self.embeddings.filter(regex=f"^{prefix}_[0-9]+$").to_numpy()


def read_workfolder(folder: pathlib.Path) -> WorkFolder:
    """Reads a finished run.

    Raises:
      InputError: naming the file that is missing.
    """
    names = ("config.json", "results.json", "metrics.jsonl", "embeddings.tsv")
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"--workdir={folder}: {name} not found; expected the folder of a finished run")
    config, results = (json.loads((folder / name).read_text()) for name in names[:2])
    return WorkFolder(
        folder=folder,
        config=config,
        results=results,
        metrics=pd.read_json(folder / names[2], lines=True),
        embeddings=pd.read_csv(folder / names[3], sep="\t", keep_default_na=False, na_values=[""]),
    )
