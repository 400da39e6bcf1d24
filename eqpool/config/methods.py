"""The values of `config.method`, and where each one is implemented.

A method is one file with a class that satisfies `eqpool.methods.base.Method`, and one entry here. The entry holds what
a config is checked against, so that checking a config imports no training code.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class MethodEntry:
    """One value of `config.method`.

    Attributes:
      path: "module:class" of the implementation.
      makes: "latents", one vector a scan, or "images", harmonised ones.
      takes_nuisances: whether it can be made invariant to `config.data.nuisances`.
    """

    path: str
    makes: Literal["latents", "images"] = "latents"
    takes_nuisances: bool = False


METHODS = {
    "ours": MethodEntry("eqpool.methods.pooling:Pooling", takes_nuisances=True),
    **dict.fromkeys(("naive", "mmd", "cai", "ss", "rm"), MethodEntry("eqpool.methods.baseline:Baseline")),
    "istn": MethodEntry("eqpool.methods.istn:Istn", makes="images"),
}


def makes_images(method: str) -> bool:
    """Whether a method harmonises images rather than making latents; False for a method that is not known here."""
    return method in METHODS and METHODS[method].makes == "images"
