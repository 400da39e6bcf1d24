"""The templates of the pages, which are the .html files of this folder."""

import jinja2


def template(name: str) -> jinja2.Template:
    """Returns a template by its file name. Values are escaped, and a name without a value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eqpool.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
