"""Groups, spheres and warps: geometry in jax alone, without parameters."""

from eqpool.geometry import so, sphere, warp

__all__ = ["so", "sphere", "warp"]
