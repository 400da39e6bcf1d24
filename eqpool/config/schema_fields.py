"""A field of the config's schema."""

import dataclasses
import math
from typing import Any


def number(default: float, minimum: float = -math.inf, maximum: float = math.inf) -> Any:
    """Returns a field with a default value and the range of values that `eqpool.config.check` accepts."""
    return dataclasses.field(default=default, metadata={"minimum": minimum, "maximum": maximum})
