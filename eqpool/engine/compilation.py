"""JAX settings that every entry point shares: the cache of compiled programs and the dtype promotion."""

import contextlib
import pathlib
from collections.abc import Iterator

import jax

from eqpool.config import RunConfig
from eqpool.storage.run_folder import RunFolder

_SHORTEST_SECONDS = 0.5  # a quicker compilation is not worth a file


def use_compilation_cache(config: RunConfig, folder: RunFolder) -> pathlib.Path:
    """Stores compiled programs in a run's cache folder and returns that folder.

    A cache that the caller chose, as by JAX_COMPILATION_CACHE_DIR, stays: JAX opens one in a process.
    """
    cache = folder.cache(config)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str((cache / "compiled").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST_SECONDS)
    return cache


@contextlib.contextmanager
def standard_promotion() -> Iterator[None]:
    """Allows the usual promotion of dtypes and ranks.

    A caller may have set JAX to strict promotion, under which flax and optax fail.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
