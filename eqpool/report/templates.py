"""The templates of the pages, which are the .html files of this folder."""

import jinja2

from eqpool.report.glossary import mark_terms


def template(name: str) -> jinja2.Template:
    """Returns a template by its file name. Values are escaped, and a name without a value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eqpool.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["terms"] = mark_terms
    return environment.get_template(name)
