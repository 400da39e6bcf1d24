"""Eight virtual CPU devices, strict promotion in our maths, and where the real data is."""

import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests run side by side, one a core, so that none should start threads for every core.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jax
import pytest
from absl import flags

REPOSITORY = pathlib.Path(__file__).parent.parent


def pytest_configure(config):
    flags.FLAGS(["pytest"])  # grain reads absl flags, which have to be parsed once


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real data, outside the repository; tests that need it skip where it is absent."""
    folder = pathlib.Path(os.environ.get("EQPOOL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real data of EQPOOL_DATA or {folder.name}/, which is not here")
    return folder


@pytest.fixture
def quick_compile():
    """Compiles in half the time to slower code: for tests of tiny networks, which compile for longer than they run."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """No silent promotion of ranks or dtypes in eqpool's maths; optax and flax themselves do not stand it."""
    folder = pathlib.Path(request.node.path).parent.name
    if folder not in ("geometry", "losses"):
        yield
        return
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
