"""Volumes: where they are, how they are read, aligned, prepared and batched."""

from typing import Any

__all__ = ["lay_on_grid"]


def __getattr__(name: str) -> Any:
    """Imports `lay_on_grid`, which stood here before this was a package."""
    if name != "lay_on_grid":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from eqpool.data.volumes.resampling import lay_on_grid

    return lay_on_grid
