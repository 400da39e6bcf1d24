"""Reads files into arrays in host memory with numpy, pandas, nibabel, nilearn, grain and tfds, never with jax."""
