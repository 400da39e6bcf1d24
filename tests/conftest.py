"""Eight virtual CPU devices, strict promotion in our maths, and where the real data is."""

import contextlib
import functools
import hashlib
import http.server
import os
import pathlib
import resource
import shutil
import signal
import threading

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests run side by side, one a core, so that none should start threads for every core.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
os.environ["EQPOOL_STRICT_FIGURES"] = "1"  # a figure that fails is a bug here, and no line in a report
os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # no further processes, but in the test of them
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jax
import pytest
from absl import flags

from eqpool.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OutputConfig,
    RunConfig,
    StageOneConfig,
    StageTwoConfig,
)

REPOSITORY = pathlib.Path(__file__).parent.parent
# XLA's older code for loops compiles in half the time, and a program in one piece in a fifth less on one core.
QUICK_FLAGS = " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
LARGEST_CACHE_BYTES = 2**30
# They come first, so that no worker starts on one when the other is done.
LONGEST = (
    "objectives/test_istn_stage.py",
    "engine/test_session.py",
    "engine/test_remainders.py",
    "evaluate/test_probes.py",
    "commands/test_transform.py",
    "objectives/test_stages_across_devices.py",
    "methods/test_dry_run.py",
    "tests/test_docs.py",
    "losses/test_losses_across_devices.py",
    "commands/test_calibrated_volumes.py",
)


def pytest_configure(config):
    flags.FLAGS(["pytest"])  # grain reads absl flags, which have to be parsed once
    if config.getoption("markexpr") == "not slow":  # the slow tests run what a user's XLA makes
        os.environ["XLA_FLAGS"] += QUICK_FLAGS  # JAX reads them with its first array
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the processes that tests start
        jax.config.update("jax_disable_most_optimizations", True)
    if hasattr(config, "cache"):
        keep_programs(config.cache.mkdir("compiled"), clean=not hasattr(config, "workerinput"))


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not str(item.path).endswith(LONGEST))


def keep_programs(folder: pathlib.Path, clean: bool) -> None:
    """Compiles a program once for all files, both workers and later runs of the tests."""
    if clean and sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) > LARGEST_CACHE_BYTES:
        shutil.rmtree(folder)
    processor = pathlib.Path("/proc/cpuinfo")  # machine code is for processors of one kind
    lines = processor.read_text().splitlines() if processor.exists() else []
    kind = hashlib.sha256("".join(sorted({line for line in lines if line.startswith("flags")})).encode()).hexdigest()
    jax.config.update("jax_compilation_cache_dir", str(folder / kind[:8]))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real data, outside the repository; tests that need it skip where it is absent."""
    folder = pathlib.Path(os.environ.get("EQPOOL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real data of EQPOOL_DATA or {folder.name}/, which is not here")
    return folder


@pytest.fixture
def quick_compile():
    """Compiles in half the time to slower code, as all but slow tests do: for slow tests of tiny networks."""
    with quickly_compiled():
        yield


@contextlib.contextmanager
def quickly_compiled():
    """`quick_compile` for fixtures that live longer than a test."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def full_disk():
    """No file may grow beyond a mebibyte: what a full disk and a quota do to a writer."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """After each file: hundreds of programs are some gigabytes by the end, and files hardly share any."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """No silent promotion of ranks or dtypes in eqpool's maths; optax and flax themselves do not stand it."""
    folder = pathlib.Path(request.node.path).parent.name
    if folder not in ("geometry", "losses"):
        yield
        return
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def tiny_config(folder: pathlib.Path) -> RunConfig:
    """Small networks on 18 simulated volumes of three sites, two epochs: compiling is most of the time they take."""
    return RunConfig(
        name="tiny",
        cache_dir=str(folder / "cache"),
        devices=1,
        data=DataConfig(dataset="adcp", simulated_fraction=0.0, grid="24x28x24", workers=2),
        model=ModelConfig(latent_dim=8, hidden_units=8, channels=(4, 4), blocks=(1, 1), decoder_channels=(8, 4)),
        stage_one=StageOneConfig(epochs=2, batch_size=8, prediction_weight=1.0, learning_rate=1e-2),
        stage_two=StageTwoConfig(epochs=2, batch_size=16),
        output=OutputConfig(change_scale="1"),  # two epochs' change would not pay
        evaluate=EvaluateConfig(
            adversary_epochs=1, probe_seeds=1, probe_folds=2, permutations=9, bootstraps=9, scorecard=False
        ),
    )


@pytest.fixture(scope="session")
def trained_volumes(tmp_path_factory) -> pathlib.Path:
    """The work directory of a finished run on volumes; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    train_quickly(tiny_config(folder), folder / "run")
    return folder / "run"


def train_quickly(config: RunConfig, folder: pathlib.Path) -> None:
    """A run without its probes and permutations, which take most of the time and have tests of their own."""
    from eqpool.commands.run import run  # the training stack: most tests do without it

    with pytest.MonkeyPatch.context() as patch, quickly_compiled():
        patch.setattr("eqpool.methods.latent.cached_site_floor", lambda *_: {})
        patch.setattr("eqpool.methods.latent.evaluate", lambda *_: {})
        run(config, folder, quiet=True)


@pytest.fixture
def serve():
    """(folder) -> the address of a server on this machine that gives its files."""
    with contextlib.ExitStack() as stack:

        def start(folder: pathlib.Path) -> str:
            handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
            serving = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=serving.serve_forever, daemon=True).start()
            stack.callback(serving.shutdown)
            return f"http://127.0.0.1:{serving.server_port}"

        yield start
