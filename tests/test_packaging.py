"""The wheel holds what it should and asks for what it needs: built as a user's pip builds it."""

import ast
import email
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

import eqpool

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built from a copy of the tracked files, so that nothing untracked slips in and no build folder stays."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(folder / "source")]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel) -> email.message.Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_configs_and_nothing_else(wheel):
    names = set(wheel.namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "eqpool").rglob("*.py")}
    package |= {"eqpool/py.typed", "eqpool/report/page.html", "eqpool/report/page.css"}
    assert {name for name in names if name.startswith("eqpool/")} == package
    configs = {name.split("/data/")[1] for name in names if ".data/data/" in name}
    assert configs == {f"share/eqpool/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert not [name for name in names if not name.startswith("eqpool")]  # no tests, no experiments


@pytest.mark.slow
def test_the_wheel_says_version_licence_and_what_it_needs(metadata):
    assert metadata["Version"] == eqpool.__version__ and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    asked = metadata.get_all("Requires-Dist")
    needed = {re.split(r"[^\w-]", line)[0].lower() for line in asked if "extra ==" not in line}
    assert needed == {re.split(r"[^\w-]", line)[0].lower() for line in PROJECT["dependencies"]}
    assert not needed & {"torch", "tensorflow", "neurocombat", "sphinx", "pytest", "tensorboardx", "dipy"}
    assert {"align", "combat", "cuda", "dev", "docs", "tensorboard", "torch-benchmarks", "tpu"} <= set(
        metadata.get_all("Provides-Extra")
    )


def test_every_import_of_the_package_is_a_dependency_or_a_known_extra():
    names = {"sklearn": "scikit-learn", "skimage": "scikit-image", "absl": "absl-py", "orbax": "orbax-checkpoint"}
    extras = {"dipy", "tensorboardx"}  # imported where they are used, with a line that says what to install
    known = {re.split(r"[^\w-]", line)[0].lower() for line in PROJECT["dependencies"]} | extras
    for path in (ROOT / "eqpool").rglob("*.py"):
        for package in imported_packages(path) - sys.stdlib_module_names - {"eqpool"}:
            assert names.get(package, package.replace("_", "-")).lower() in known, f"{path.name}: {package}"


def imported_packages(path: pathlib.Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {module.split(".")[0] for module in modules}


# Declared, though eqpool/ imports them nowhere: the test below asks for a reason.
NOT_IMPORTED: dict[str, str] = {}


def test_every_dependency_is_imported_somewhere():
    modules = importlib.metadata.packages_distributions()
    imported = {package for path in (ROOT / "eqpool").rglob("*.py") for package in imported_packages(path)}
    used = {name.lower().replace("_", "-") for package in imported for name in modules.get(package, [])}
    for line in PROJECT["dependencies"]:
        name = re.split(r"[^\w-]", line)[0].lower()
        assert name in used or NOT_IMPORTED.get(name), f"{name} is a dependency, and nothing in eqpool/ imports it"
    assert not used & set(NOT_IMPORTED)


def test_version_and_citation_agree():
    assert f"version: {eqpool.__version__}\n" in (ROOT / "CITATION.cff").read_text()
