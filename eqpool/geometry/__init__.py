"""Geometry of groups, spheres and warps, in pure JAX and without trainable parameters."""

from eqpool.geometry import so, sphere, warp

__all__ = ["so", "sphere", "warp"]
