"""What each key of a config means, read from the comments of `eqpool.config.schema` and its parts."""

import dataclasses
import functools
import inspect
import io
import tokenize
from collections.abc import Iterator
from typing import Any, get_type_hints

from eqpool.config.schema import RunConfig


@functools.cache
def describe_keys() -> dict[str, str]:
    """Returns the description of every dotted key, such as "stage_one.epochs", in the order of the config.

    A description is the comment above a field or at the end of its line. A key without one has "".
    """
    return dict(_keys(RunConfig, ""))


def _keys(config: type, prefix: str) -> Iterator[tuple[str, str]]:
    comments = {name: text for base in reversed(config.__mro__) for name, text in _comments(base).items()}
    types = get_type_hints(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(types[field.name]):
            yield from _keys(types[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", comments.get(field.name, "")


def _comments(config: Any) -> dict[str, str]:
    """Returns the comments of a class's own fields by the field's name."""
    if not dataclasses.is_dataclass(config):
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(inspect.getsource(config)).readline)  # type: ignore[arg-type]
    found: dict[str, str] = {}
    above: list[str] = []
    line: list[tokenize.TokenInfo] = []
    for token in tokens:
        if token.type == tokenize.COMMENT and not line:
            above.append(token.string.lstrip("# "))
        elif token.type in (tokenize.NEWLINE, tokenize.NL) and line:
            behind = [one.string.lstrip("# ") for one in line if one.type == tokenize.COMMENT]
            if len(line) > 1 and line[0].type == tokenize.NAME and line[1].string == ":":
                found[line[0].string] = " ".join(above + behind)
            above, line = [], []
        elif token.type not in (tokenize.INDENT, tokenize.DEDENT, tokenize.NL, tokenize.NEWLINE):
            line.append(token)
    return found
