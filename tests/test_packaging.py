"""The wheel holds what it should and asks for what it needs: built as a user's pip builds it."""

import ast
import email
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib
import venv
import zipfile

import pytest

import eqpool

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def copy_tracked_files(folder: pathlib.Path) -> None:
    """Copies what a clone has into `folder`, so that nothing untracked slips in and no build folder stays behind."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built as a user's pip builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    copy_tracked_files(folder / "source")
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
    pages = {path for ending in ("html", "css") for path in (ROOT / "eqpool/report").glob(f"*.{ending}")}
    package |= {"eqpool/py.typed"} | {str(path.relative_to(ROOT)) for path in pages}
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
    assert not needed & {"torch", "tensorflow", "neurocombat", "sphinx", "pytest", "tensorboardx"}
    assert {"combat", "cuda", "dev", "docs", "tensorboard", "torch-benchmarks", "tpu"} <= set(
        metadata.get_all("Provides-Extra")
    )


@pytest.mark.slow
def test_an_editable_install_is_found_from_the_parent_folder_of_a_clone_called_eqpool(tmp_path):
    """There the clone itself, which has no __init__.py, looks like a package without contents."""
    copy_tracked_files(tmp_path / "eqpool")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--editable", tmp_path / "eqpool"]
    subprocess.run(install, check=True, capture_output=True)
    environment = {"PATH": "/usr/bin:/bin"}  # without this suite's PYTHONPATH
    code = "import eqpool; print(eqpool.__version__, eqpool.__file__)"
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [eqpool.__version__, str(tmp_path / "eqpool" / "eqpool" / "__init__.py")]
    environment["PYTHONPATH"] = str(pathlib.Path(pytest.__file__).parent.parent)  # what eqpool depends on
    done = subprocess.run(
        [python, "-m", "eqpool.main", "--list"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "configs/adni.py" in done.stdout, done.stderr


def test_every_import_of_the_package_is_a_dependency_or_a_known_extra():
    names = {"sklearn": "scikit-learn", "skimage": "scikit-image", "absl": "absl-py", "orbax": "orbax-checkpoint"}
    extras = {"tensorboardx"}  # imported where they are used, with a line that says what to install
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
