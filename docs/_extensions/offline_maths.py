"""Renders formulas as MathML, which browsers draw by themselves: no script, no font, no network.

docutils, which Sphinx needs in any case, converts LaTeX. It knows fewer commands than LaTeX. A formula that it cannot
read is a warning, and so an error of `make docs`.
"""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_LOG = logging.getLogger(__name__)


def _mathml(self: Any, node: nodes.Element, as_block: bool) -> str:
    text = node.astext().strip()
    try:
        return tex2mathml(text, as_block=as_block)
    except MathError as error:
        _LOG.warning("formula %s: %s", text, error, location=node)
        return f"<code>{self.encode(text)}</code>"


def visit_inline(self: Any, node: nodes.Element) -> None:
    """Writes a formula within a line."""
    self.body.append(_mathml(self, node, as_block=False))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.Element) -> None:
    """Writes a formula on a line of its own, in a box that scrolls where the window is narrow."""
    self.body.append(f'<div class="formula">{_mathml(self, node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer `mathml` for `html_math_renderer`."""
    app.add_html_math_renderer("mathml", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
