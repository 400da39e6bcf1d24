"""How JAX is set up for every door: where compiled programs are kept, and how dtypes promote."""

import contextlib
import pathlib
from collections.abc import Iterator

import jax

from eqpool.config import RunConfig
from eqpool.storage.run_folder import RunFolder

_SHORTEST_SECONDS = 0.5  # a compilation that is quicker is not worth a file


def use_compilation_cache(config: RunConfig, folder: RunFolder) -> pathlib.Path:
    """Keeps compiled programs in the cache folder of a run, and returns that folder."""
    cache = folder.cache(config)
    jax.config.update("jax_compilation_cache_dir", str((cache / "compiled").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST_SECONDS)
    return cache


@contextlib.contextmanager
def standard_promotion() -> Iterator[None]:
    """Lets dtypes and ranks promote as usual: flax and optax fail where a caller's JAX promotes strictly."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
