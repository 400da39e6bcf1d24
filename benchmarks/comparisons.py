"""The computations that are compared with PyTorch, and their sizes."""

import dataclasses
from collections.abc import Iterator
from typing import Any

_EAGER: dict[str, Any] = {}
_COMPILED = {"compiled": True}
_CHANNELS_LAST = {"channels_last": True}
_VARIANT_NAMES = {"": "eager", "compiled": "torch.compile", "channels_last": "channels last"}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One row of the table.

    Attributes:
      name: name of the row, which `--only` is matched with.
      module, function: names of both in benchmarks/ours and benchmarks/pytorch.
      sizes: arguments of both functions.
      variants: further arguments of the PyTorch side. Each is tried, and the table shows the fastest.
    """

    name: str
    module: str
    function: str
    sizes: dict[str, Any]
    variants: tuple[dict[str, Any], ...] = (_EAGER,)

    def variant_name(self, variant: dict[str, Any]) -> str:
        """Returns the name of a variant."""
        if "form" in self.sizes:
            return {"pairwise": "pairs, eager", "linear": "O(N), eager"}[self.sizes["form"]]
        return _VARIANT_NAMES[next(iter(variant), "")]


def comparisons() -> Iterator[Comparison]:
    """Yields all rows, in order."""
    for rows in (128, 256):
        sizes = {"rows": rows, "n": 30, "form": "pairwise"}
        yield Comparison(f"equivariance loss, PyTorch over pairs, {rows} rows, gradient", "equivariance", "loss", sizes)
    for rows in (128, 4096, 65_536):
        sizes = {"rows": rows, "n": 30, "form": "linear"}
        yield Comparison(f"equivariance loss, {rows} rows, gradient", "equivariance", "loss", sizes)
    for rows in (128, 4096, 17_000):
        for sites in (2, 3, 20):
            sizes = {"rows": rows, "sites": sites, "gradient": rows < 17_000}
            name = f"MMD, {rows} rows, {sites} sites, {'gradient' if rows < 17_000 else 'forward'}"
            yield Comparison(name, "mmd", "loss", sizes, (_EAGER, _COMPILED) if sites == 3 else (_EAGER,))
    for stage in ("stage_one", "stage_two"):
        sizes = {"dataset": "adult", "name": stage}
        yield Comparison(f"Adult {stage} step, batch 128", "tables", "epoch", sizes, (_EAGER, _COMPILED))
    sizes = {"shape": [91, 109, 91], "batch": 4}
    yield Comparison("ADNI encoder step, 91x109x91, batch 4", "resnet3d", "step", sizes, (_EAGER, _CHANNELS_LAST))
    for kind in ("affine", "bspline"):
        sizes = {"kind": kind, "side": 64, "batch": 2}
        yield Comparison(f"ISTN step, {kind}, 64^3, batch 2", "istn", "step", sizes, (_EAGER, _CHANNELS_LAST))
    for first in (True, False):
        sizes = {"files": 32, "batch": 8, "first": first}
        which = "first epoch" if first else "later epochs"
        yield Comparison(f"input, a NIfTI volume at 2 mm, {which}", "loader", "epochs", sizes)
    yield from _group_maps()


def _group_maps() -> Iterator[Comparison]:
    for name in ("cayley", "expm"):
        for n in (16, 30, 64):
            for batch in (128, 4096):
                for gradient in (False, True):
                    sizes = {"name": name, "n": n, "batch": batch, "gradient": gradient}
                    mode = "gradient" if gradient else "forward"
                    yield Comparison(f"{name}, {batch} x {n} x {n}, {mode}", "group_maps", "group_map", sizes)
