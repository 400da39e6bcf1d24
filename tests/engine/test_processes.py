"""Two processes of four devices, as two hosts would be, train what one process of eight does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PROGRAM = pathlib.Path(__file__).with_name("train_tiny.py")
REPOSITORY = PROGRAM.parents[2]
TOLERANCE = 2e-3


def train(folder: pathlib.Path, kind: str, epochs: int, processes: int) -> dict[str, np.ndarray]:
    """What `train_tiny` kept, trained by so many processes, eight devices in all."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // processes} --xla_cpu_multi_thread_eigen=false",
        "PYTHONPATH": str(REPOSITORY),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(processes),
    }
    command = [sys.executable, str(PROGRAM), str(folder), kind, str(epochs)]
    command += ["--distributed"] if processes > 1 else []
    running = [
        subprocess.Popen(
            command, env=shared | {"JAX_PROCESS_ID": str(number)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for number in range(processes)
    ]  # fmt: skip
    for process in running:
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said[-3000:]
    with np.load(folder / "outputs.npz") as archive:
        return dict(archive)


@pytest.mark.parametrize("kind", ["volumes", "table"])
def test_two_hosts_train_what_one_does_and_one_goes_on_from_their_checkpoint(tmp_path, kind):
    alone = train(tmp_path / "alone", kind, epochs=2, processes=1)
    together = train(tmp_path / "together", kind, epochs=2, processes=2)
    train(tmp_path / "resumed", kind, epochs=1, processes=2)
    resumed = train(tmp_path / "resumed", kind, epochs=2, processes=1)

    assert (alone["processes"], together["processes"], resumed["processes"]) == (1, 2, 1)
    assert together["number"] == 0, "the first process writes"
    for name in ("latent", "tau", "phi", "covariate_free", "prediction"):
        # Adam's first steps go by a gradient's sign, which rounding decides where the gradient is next to nothing.
        np.testing.assert_allclose(together[name], alone[name], atol=TOLERANCE, err_msg=name)
        np.testing.assert_allclose(resumed[name], alone[name], atol=TOLERANCE, err_msg=name)
    assert np.ptp(alone["latent"], axis=0).max() > 5 * TOLERANCE, "rows in another order would be seen"

    records = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "together", "resumed")
    ]
    assert [record["epoch"] for record in records[1]] == [1, 2, 1, 2], "one record an epoch, whoever counts"
    for others in records[1:]:
        for one, other in zip(records[0], others, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
