"""Every Python block of the guide runs, page by page, and the guide builds without a warning."""

import ast
import pathlib
import pkgutil
import re
import runpy
import subprocess
import sys

import pytest

from eqpool.commands.program import COMMANDS
from eqpool.config import default_config
from eqpool.config.descriptions import describe_keys

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_run_as_they_stand(page):
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, page.name, "exec"), names)


def test_the_page_on_the_method_names_only_what_exists():
    page = (DOCS / "method.md").read_text()
    names = set(re.findall(r"`(eqpool\.[A-Za-z_.0-9]+)`", page))
    assert len(names) > 20
    for name in sorted(names):
        pkgutil.resolve_name(name)


CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
POOLING = [path for path in sorted(CONFIGS.glob("*.py")) if path.stem not in ("brain_age", "brain_sex", "morpho_mnist")]


def documented_values(column: int) -> dict[str, object]:
    """Dotted key -> value of each `key = value` in a column of the table of docs/equations.md."""
    found: dict[str, object] = {}
    for line in (DOCS / "equations.md").read_text().splitlines():
        cells = line.strip("| ").split(" | ")
        if line.startswith("| ") and len(cells) > column:
            pairs = re.findall(r"`([a-z_]+\.[a-z_]+) = ([^`]+)`", cells[column])
            found |= {key: ast.literal_eval(value) for key, value in pairs}
    return found


def config_value(config, key: str):
    for part in key.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("path", POOLING, ids=lambda path: path.stem)
def test_the_page_of_equations_says_what_the_paper_variant_is(path):
    config = runpy.run_path(str(path))["get_config"]("paper")
    of_default, of_paper = documented_values(2), documented_values(3)
    assert {"model.spectrum", "model.group_map", "model.centre_latent"} <= set(of_default)
    assert {"stage_two.mmd_match", "model.phi", "stage_one.equivariance_weight"} <= set(of_paper)
    for key, value in (of_default | of_paper).items():
        assert config_value(config, key) == value, key


def test_the_defaults_that_the_page_of_equations_names():
    config = default_config()
    for key, value in documented_values(2).items():
        assert config_value(config, key) == value, key


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """The folder of the built guide."""
    folder = tmp_path_factory.mktemp("guide")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_guide_builds_without_a_warning(guide):
    assert all((guide / f"{page.stem}.html").is_file() for page in PAGES)


def test_the_guide_needs_no_network(guide):
    for page in guide.glob("*.html"):
        loaded = re.findall(r'<(?:script|img|link rel="stylesheet")[^>]* (?:src|href)="([^"]+)"', page.read_text())
        assert loaded and not [path for path in loaded if "//" in path], page.name
    formulas = (guide / "equations.html").read_text()
    assert formulas.count("<math") > 30 and "\\operatorname" not in formulas


def test_the_guide_has_every_key_and_every_command(guide):
    page = (guide / "config.html").read_text()
    keys = re.findall(r'<dt><code[^>]*><span class="pre">([a-z_.]+)</span></code>', page)
    assert sorted(keys) == sorted(describe_keys())
    page = (guide / "command_line.html").read_text()
    assert all(f'<span class="pre">{name}</span>' in page for name in COMMANDS)
    assert "--keep KEEP" in page and "--workdir" in page
