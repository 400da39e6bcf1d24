"""The values of `config.method` and their implementations.

A method is one file with a class that satisfies `eqpool.methods.base.Method`, and one entry here. The entry holds the
facts needed to check a config, so that checking imports no training code.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class MethodEntry:
    """One value of `config.method`.

    Attributes:
      path: "module:class" of the implementation.
      makes: "latents" for one vector a scan, "images" for harmonised images alone, or "data" for harmonised volumes or
        features alone.
      takes_nuisances: whether the method can be made invariant to `config.data.nuisances`.
      calibrates: whether `config.data.site_calibration = "by_method"` means "auto" rather than "none".
    """

    path: str
    makes: Literal["latents", "images", "data"] = "latents"
    takes_nuisances: bool = False
    calibrates: bool = False


METHODS = {
    "ours": MethodEntry("eqpool.methods.pooling:Pooling", takes_nuisances=True, calibrates=True),
    **dict.fromkeys(("naive", "mmd", "cai", "ss", "rm"), MethodEntry("eqpool.methods.baseline:Baseline")),
    "combat": MethodEntry("eqpool.methods.combat:CombatMethod", makes="data"),
    "istn": MethodEntry("eqpool.methods.istn:Istn", makes="images"),
}


def makes_latents(method: str) -> bool:
    """Returns whether a method makes one latent vector a scan. An unknown method returns False."""
    return method in METHODS and METHODS[method].makes == "latents"


def makes_images(method: str) -> bool:
    """Returns whether a method harmonises images rather than making latents. An unknown method returns False."""
    return method in METHODS and METHODS[method].makes == "images"
