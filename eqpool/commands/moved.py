"""Old names of modules that have moved, for configs, programs and commands that were written before.

`import eqpool.presets` and `python -m eqpool.data.rescanned` still work, with a DeprecationWarning. Imports nothing.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

MOVED = {
    "eqpool.presets": "eqpool.config.presets",
    "eqpool.data.arrays": "eqpool.data.tables.arrays",
    "eqpool.data.covariates": "eqpool.data.tables.covariates",
    "eqpool.data.participants": "eqpool.data.tables.participants",
    "eqpool.data.grids": "eqpool.data.volumes.grids",
    "eqpool.data.images": "eqpool.data.volumes.locate",
    "eqpool.data.pipeline": "eqpool.data.load",
    "eqpool.data.morpho_mnist": "eqpool.commands.measure_digits",
    "eqpool.data.rescanned": "eqpool.commands.rescan",
}


class _OldName(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds an old name, and gives the module of the new one in its place."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is {new} now", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec  # importing under the old name has replaced it

    def get_code(self, name: str) -> Any:  # for python -m
        spec = importlib.util.find_spec(MOVED[name])
        return spec.loader.get_code(spec.name) if spec is not None else None  # type: ignore[union-attr]

    def get_source(self, name: str) -> None:
        return None


def keep_old_names() -> None:
    """Lets old names be imported; calling it again changes nothing."""
    if not any(isinstance(finder, _OldName) for finder in sys.meta_path):
        sys.meta_path.append(_OldName())
