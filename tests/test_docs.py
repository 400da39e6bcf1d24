"""Every Python block of the guide runs, page by page, and the guide builds without a warning."""

import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"
pytestmark = pytest.mark.usefixtures("quick_compile")
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


def test_the_guide_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / f"{page.stem}.html").is_file() for page in PAGES)
