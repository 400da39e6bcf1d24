"""The import rules: the data's way is config -> data -> models -> losses -> train -> evaluate -> report.

Training is three rooms: `engine` (how), `objectives` (what is minimised) and `methods` (from fit to transform).
"""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "eqpool"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
MODULES = {"eqpool." + ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

# Room -> rooms of eqpool that it may import; itself is always allowed.
ALLOWED = {
    "errors": set(),
    "ops": set(),
    "config": {"errors"},
    "storage": {"config", "errors"},
    "geometry": {"ops"},
    "losses": {"geometry", "ops"},
    "data": {"config", "errors", "storage"},
    "models": {"config", "geometry", "ops"},
    "engine": {"config", "data", "errors", "ops", "storage"},
    "objectives": {"config", "data", "engine", "errors", "geometry", "losses", "models", "ops"},
    "evaluate": {"config", "data", "errors", "geometry", "losses", "models", "ops", "storage"},
    "methods": {"config", "data", "engine", "errors", "evaluate", "geometry", "objectives", "storage"},
    "report": {"config", "data", "errors", "evaluate", "storage"},
    "estimator": {"config", "data", "engine", "errors", "methods", "storage"},
    "commands": {"config", "data", "engine", "errors", "estimator", "evaluate", "methods", "report", "storage"},
}
# At the top of the package: its own door, and one for each command, which import the command alone.
DOORS = {
    "__main__": "commands",
    "main": "commands",
    "transform": "commands",
    "maps": "commands",
    "preflight": "commands",
}
DOOR_FILES = {pathlib.Path(f"{name}.py") for name in DOORS} | {pathlib.Path("report/__main__.py")}
TOP = {"__init__", "errors", *DOORS}
ONLY_IN = {
    "flax": {"models"},
    "orbax": {"storage"},
    "grain": {"data"},
    "tensorflow_datasets": {"data"},
    "tensorboardX": {"storage"},
}
ANYWHERE = {"flax.traverse_util"}  # trees of plain dicts; no network
NEVER_IN = {
    "data": {"jax", "flax", "optax"},
    "report": {"jax", "flax", "optax"},
    "config": {"jax", "flax", "optax", "pandas"},
    "geometry": {"optax"},
}
NO_JAX = {pathlib.Path("commands/preflight.py")}


def _imports(path: pathlib.Path) -> set[str]:
    """The dotted names that a file imports, those under TYPE_CHECKING and in functions too."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _modules(path: pathlib.Path) -> set[str]:
    """The modules of eqpool that a file imports."""
    found = set()
    for name in _imports(path):
        if name.startswith("eqpool"):
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return found - {"eqpool"}


def _room(path: pathlib.Path) -> str:
    return path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_follow_the_data(path):
    rooms = {module.split(".")[1] for module in _modules(path)}
    if path in DOOR_FILES:
        assert rooms <= {"commands"}, f"{path} is a door and imports more than its command"
    elif path != pathlib.Path("__init__.py"):
        assert rooms - {_room(path)} <= ALLOWED[_room(path)], f"{path} imports against the data's way"


def test_every_room_is_known():
    assert {_room(path) for path in FILES} == {*ALLOWED, *TOP}
    assert {path.stem for path in FILES if len(path.parts) == 1} == TOP  # and py.typed: eight at most beside the rooms


def test_no_module_imports_itself_by_way_of_others():
    edges = {module: _modules(path) - {module} for module, path in MODULES.items() if module != "eqpool"}
    finished: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in finished:
            for other in sorted(edges.get(module, ())):
                visit(other, (*way, module))
            finished.add(module)

    for module in edges:
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=str)
def test_heavy_packages_have_one_home(path):
    packages = {name.split(".")[0] for name in _imports(path) if not any(name.startswith(a) for a in ANYWHERE)}
    for package, rooms in ONLY_IN.items():
        assert package not in packages or _room(path) in rooms, f"{path} imports {package}"
    assert not packages & NEVER_IN.get(_room(path), set())
    assert path not in NO_JAX or not packages & {"jax", "flax", "optax"}


def test_importing_eqpool_loads_only_jax_numpy_and_optax():
    code = (
        "import sys, eqpool\n"
        "heavy = {'flax', 'grain', 'orbax', 'tensorflow_datasets', 'sklearn', 'pandas', 'nilearn', 'matplotlib'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert loaded == "[]"


def test_no_code_asks_which_method_it_is():
    """But for the entries of `eqpool.config.methods`, and the site terms of the baselines, which their names choose."""
    for path in FILES:
        for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
            compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            asked = [one for one in compared if isinstance(one, ast.Attribute) and one.attr == "method"]
            literal = [one for one in compared if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            assert not (asked and literal), f"{path}, line {node.lineno}: compares a method's name"
