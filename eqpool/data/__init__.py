"""From files to arrays in host memory: numpy, pandas, nibabel, nilearn, grain and tfds; never jax."""
