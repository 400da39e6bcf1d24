"""Where compiled programs are kept."""

import jax
import pytest

from eqpool.config import RunConfig
from eqpool.engine.compilation import use_compilation_cache
from eqpool.storage.run_folder import RunFolder


@pytest.mark.parametrize("own", [True, False])
def test_a_cache_that_the_caller_chose_stays(tmp_path, own):
    chosen = str(tmp_path / "chosen") if own else None
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: jax.config.values[name] for name in names}
    jax.config.update(names[0], chosen)
    try:
        cache = use_compilation_cache(RunConfig(cache_dir=str(tmp_path / "cache")), RunFolder(tmp_path / "run"))
        assert jax.config.values[names[0]] == (chosen or str(cache / "compiled"))
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
