"""The import rules: the data's way is config -> data -> models -> losses -> train -> evaluate -> apply -> report."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "eqpool"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# Folder -> folders and modules of eqpool it may import; itself is always allowed.
ALLOWED = {
    "errors": set(),
    "arguments": set(),
    "finite": set(),
    "numerics": {"arguments"},
    "config": {"errors"},
    "checked_config": {"config", "errors"},
    "presets": set(),
    "names": {"errors"},
    "files": {"errors"},
    "workdir": {"config", "errors", "files"},
    "tensorboard": {"errors", "files", "workdir"},
    "geometry": {"arguments", "numerics"},
    "losses": {"arguments", "geometry", "numerics"},
    "data": {"commandline", "config", "errors", "files", "names", "progress"},
    "models": {"arguments", "config", "geometry", "numerics"},
    "parallel": {"errors"},
    "checkpointing": {"errors"},
    "train": {
        "config",
        "errors",
        "numerics",
        "data",
        "geometry",
        "models",
        "losses",
        "parallel",
        "checkpointing",
        "progress",
        "tensorboard",
        "workdir",
    },
    "evaluate": {
        "arguments",
        "config",
        "errors",
        "finite",
        "numerics",
        "data",
        "geometry",
        "models",
        "losses",
        "progress",
    },
    "apply": {
        "checked_config",
        "config",
        "errors",
        "files",
        "numerics",
        "data",
        "geometry",
        "models",
        "parallel",
        "checkpointing",
        "train",
        "evaluate",
        "progress",
        "workdir",
    },
    "formatting": set(),
    "readings": {"formatting"},
    "progress": set(),
    "commandline": {"errors"},
    "given_paths": {"config", "errors"},
    "summary": {"data", "readings"},
    "report": {
        "commandline",
        "errors",
        "evaluate",
        "files",
        "formatting",
        "given_paths",
        "names",
        "progress",
        "readings",
        "summary",
    },
    "preflight": {"commandline", "config", "errors", "data", "files", "given_paths", "summary"},
}
ONLY_IN = {
    "flax": {"models"},
    "orbax": {"checkpointing"},
    "grain": {"data"},
    "tensorflow_datasets": {"data"},
    "tensorboardX": {"tensorboard"},
}
NEVER_IN = {
    "finite": {"jax", "flax", "optax"},
    "data": {"jax", "flax", "optax"},
    "report": {"jax", "flax", "optax"},
    "preflight": {"jax", "flax", "optax"},
    "geometry": {"optax"},
}


def _imports(path: pathlib.Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def _room(path: pathlib.Path) -> str:
    return path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_follow_the_data(path):
    room = _room(path)
    inside = {name.split(".")[1] for name in _imports(path) if name.startswith("eqpool.")}
    inside = {
        name
        for name in inside
        if not name.startswith("__") and (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()
    }
    if room in ALLOWED:
        assert inside - {room} <= ALLOWED[room], f"{path} imports against the data's way"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_heavy_packages_have_one_home(path):
    packages = {name.split(".")[0] for name in _imports(path)}
    for package, rooms in ONLY_IN.items():
        assert package not in packages or _room(path) in rooms, f"{path} imports {package}"
    assert not packages & NEVER_IN.get(_room(path), set())


def test_every_room_is_known():
    # The package's door, the commands and the orchestration may import anything below them.
    free = {"__init__", "main", "run", "harmonise", "plan", "estimator", "crossfit", "maps", "shipped", "transform"}
    assert {_room(path) for path in FILES} <= set(ALLOWED) | free


def test_importing_eqpool_loads_only_jax_numpy_and_optax():
    code = (
        "import sys, eqpool\n"
        "heavy = {'flax', 'grain', 'orbax', 'tensorflow_datasets', 'sklearn', 'pandas', 'nilearn', 'matplotlib'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert loaded == "[]"
