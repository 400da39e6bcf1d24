"""Sphinx: `make docs` writes docs/_build/html. Pages are Markdown; every Python block in them runs in the tests."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "_extensions"))

project = "eqpool"
author = "the eqpool developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "offline_maths", "reference_pages"]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 2
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes, which types do not
html_theme = "furo"
smartquotes = False  # "" is a value here
html_title = "eqpool"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
exclude_patterns = ["_build"]


def _as_plain_text(app, what, name, target, options, lines):
    """Docstrings are written to be read as they stand: |x| is a norm and (*shape) a shape, not markup."""
    for number, line in enumerate(lines):
        parts = line.split("`")  # what is between backquotes is code
        parts[::2] = [part.replace("|", r"\|").replace("*", r"\*") for part in parts[::2]]
        lines[number] = "`".join(parts)


def setup(app):
    """Before napoleon, which reads the sections."""
    app.connect("autodoc-process-docstring", _as_plain_text, priority=400)
