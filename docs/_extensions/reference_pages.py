"""Writes the pages of reference from the code: every key of a config, and the help of every command."""

import dataclasses
import inspect
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from eqpool.commands.program import COMMANDS
from eqpool.config import RunConfig
from eqpool.config.descriptions import describe_keys


class ConfigKeys(Directive):
    """Lists the keys of a config by group, with their defaults, what they may be and what they mean."""

    def run(self) -> list[nodes.Node]:
        """Returns a section for each group."""
        types = get_type_hints(RunConfig)
        fields = dataclasses.fields(RunConfig)
        groups = {field.name: types[field.name] for field in fields if dataclasses.is_dataclass(types[field.name])}
        top = [field for field in fields if field.name not in groups]
        sections = [_section("The run", "Keys outside of all groups.", _items(RunConfig, top, ""))]
        for name, group in groups.items():
            said = inspect.getdoc(group) or ""
            items = _items(group, dataclasses.fields(group), f"{name}.")
            sections.append(_section(name, said.split("\n\n")[0], items))
        return sections


def _section(title: str, text: str, items: Iterator[nodes.definition_list_item]) -> nodes.section:
    section = nodes.section(ids=[nodes.make_id(f"keys-{title}")], names=[title])
    section += nodes.title(
        "", "", nodes.literal("", title) if "." not in title and " " not in title else nodes.Text(title)
    )
    section += nodes.paragraph("", " ".join(text.split()))
    section += nodes.definition_list("", *items)
    return section


def _items(group: Any, fields: Any, prefix: str) -> Iterator[nodes.definition_list_item]:
    types, meanings = get_type_hints(group), describe_keys()
    for field in fields:
        key = f"{prefix}{field.name}"
        term = nodes.term("", "", nodes.literal("", key), nodes.Text(" = "), nodes.literal("", _written(field.default)))
        meaning = meanings[key]
        said = [_sentence(meaning), _allowed(types[field.name], field)]
        text = ". ".join(part.rstrip(".") for part in said if part)
        yield nodes.definition_list_item(
            "", term, nodes.definition("", nodes.paragraph("", f"{text}." if text else ""))
        )


def _sentence(text: str) -> str:
    """Capitalises the first letter, unless the first word is a value or a file's name."""
    return text[:1].upper() + text[1:] if text.split(" ")[0].isalpha() else text


def _written(default: object) -> str:
    return '""' if default == "" else str(default)


def _allowed(kind: Any, field: Any) -> str:
    choices = get_args(kind) if kind != tuple[int, ...] else ()
    choices = choices or field.metadata.get("choices", tuple)()
    if choices:
        return f"One of {', '.join(map(str, choices))}"
    low, high = field.metadata.get("minimum", -math.inf), field.metadata.get("maximum", math.inf)
    bounds = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
    return " and ".join(bounds).capitalize()


class CommandLine(Directive):
    """Shows what `eqpool COMMAND --help` prints, command by command."""

    def run(self) -> list[nodes.Node]:
        """Returns a section for each command."""
        sections: list[nodes.Node] = []
        for name in COMMANDS:
            section = nodes.section(ids=[nodes.make_id(f"eqpool-{name}")], names=[name])
            section += nodes.title("", "", nodes.literal("", f"eqpool {name}"))
            section += nodes.literal_block("", _help(name), language="text", classes=["help"])
            sections.append(section)
        return sections


def _help(name: str) -> str:
    command = [sys.executable, "-m", "eqpool", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "96"})
    return done.stdout.strip()


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directives `config-keys` and `command-line`."""
    app.add_directive("config-keys", ConfigKeys)
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
