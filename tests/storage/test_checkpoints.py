"""Damage is noticed, told and survived; a checkpoint serves on other devices than those it was saved on."""

import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool import __version__
from eqpool.engine import data_parallel
from eqpool.errors import InputError
from eqpool.storage.checkpoints import Checkpoints
from eqpool.storage.files import read_arrays
from tests.fixtures.make_checkpoint import EPOCH, FOLDER, batch, initial_state, stage

EPOCHS = (3, 6)


def state(scale: float = 1.0) -> dict:
    kernel = scale * jax.random.normal(jax.random.key(0), (64, 64))
    return {"params": {"kernel": kernel, "bias": scale * jnp.arange(5.0)}, "epoch": jnp.int32(scale)}


def assert_same(a, b) -> None:
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(folder) as checkpoints:
        for epoch in EPOCHS:
            checkpoints.save(epoch, state(epoch))
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def arrays_file(folder: pathlib.Path, epoch: int) -> pathlib.Path:
    return max((folder / str(epoch)).rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(path: pathlib.Path, seed: int) -> None:
    content = bytearray(path.read_bytes())
    content[np.random.default_rng(seed).integers(len(content))] ^= 0x10
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("seed", range(6))
def test_one_flipped_bit_of_an_array_is_noticed(folder, seed):
    """Orbax alone restores such a checkpoint without a word."""
    flip(arrays_file(folder, 6), seed)
    with Checkpoints(folder) as checkpoints, pytest.raises(InputError, match="6: cannot be restored; it is damaged"):
        checkpoints.restore(state())


DAMAGE = {
    "truncated": lambda folder: os.truncate(arrays_file(folder, 6), 1000),
    "flipped": lambda folder: flip(arrays_file(folder, 6), 0),
    "arrays missing": lambda folder: arrays_file(folder, 6).unlink(),
    "records missing": lambda folder: (folder / "6" / "state" / "_METADATA").unlink(),
    "empty": lambda folder: shutil.rmtree(folder / "6" / "state"),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_the_last_good_one_is_restored_and_the_damaged_one_set_aside(folder, name, capfd):
    DAMAGE[name](folder)
    with Checkpoints(folder) as checkpoints:
        assert_same(checkpoints.restore_last_good(state()), state(3))
        assert checkpoints.epochs() == [3]
        checkpoints.save(6, state(6))  # the epoch is made again, and its name is free
    assert "6: cannot be restored" in (said := capfd.readouterr().err) and "going on from epoch 3" in said
    assert said.count("\n") == 1
    assert (folder / "6.damaged").is_dir()
    with Checkpoints(folder) as checkpoints:
        assert_same(checkpoints.restore_last_good(state()), state(6))


def test_where_none_is_good_nothing_is_touched(folder):
    for epoch in EPOCHS:
        os.truncate(arrays_file(folder, epoch), 1000)
    before = sorted(folder.rglob("*"))
    with Checkpoints(folder) as checkpoints, pytest.raises(InputError, match="6: cannot be restored"):
        checkpoints.restore_last_good(state())
    assert sorted(folder.rglob("*")) == before


OTHER = {
    "shape": {"params": {"kernel": jnp.zeros((64, 32)), "bias": jnp.arange(5.0)}, "epoch": jnp.int32(0)},
    "names": {"params": {"kernel": jnp.zeros((64, 64)), "offset": jnp.arange(5.0)}, "epoch": jnp.int32(0)},
    "fewer": {"params": {"kernel": jnp.zeros((64, 64))}, "epoch": jnp.int32(0)},
}


@pytest.mark.parametrize("name", list(OTHER))
def test_another_networks_checkpoint_is_one_line_and_stays(folder, name):
    before = sorted(folder.rglob("*"))
    with Checkpoints(folder) as checkpoints, pytest.raises(InputError) as told:
        checkpoints.restore_last_good(OTHER[name])
    assert "it is damaged, or of another config" in str(told.value) and "\n" not in str(told.value)
    assert sorted(folder.rglob("*")) == before


def test_another_versions_checkpoint_names_it(folder):
    written = [
        path for path in (folder / "6").rglob("*") if path.is_file() and f'"{__version__}"' in path.read_text("latin-1")
    ]
    assert written
    for path in written:
        path.write_text(path.read_text().replace(f'"{__version__}"', '"0.0.1"'))
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(InputError, match=r"6: cannot be restored; eqpool 0\.0\.1 wrote"),
    ):
        checkpoints.restore(OTHER["shape"])


def test_a_full_disk_is_one_line_and_what_was_saved_stands(folder, full_disk):
    large = {"params": jax.random.normal(jax.random.key(1), (1024, 1024))}
    with (
        pytest.raises(InputError, match=r"epoch 9 cannot be written \(File too large\); the last good one is 6"),
        Checkpoints(folder) as checkpoints,
    ):
        checkpoints.save(9, large)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.epochs() == [3, 6]
        assert_same(checkpoints.restore(state()), state(6))


@pytest.mark.parametrize(("saving", "restoring"), [(8, 1), (1, 8)])
def test_saved_on_some_devices_and_restored_on_others(tmp_path, saving, restoring):
    before, after = (data_parallel.make_mesh(count) for count in (saving, restoring))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, data_parallel.put_replicated(state(2), before))
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(data_parallel.put_replicated(state(), after))
    assert_same(restored, state(2))
    assert all(leaf.sharding == data_parallel.replicated(after) for leaf in jax.tree.leaves(restored))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("device_name", ["cpu:0", "cuda:0", "TPU_0(process=0,(0,0,0,0))"])
def test_the_checkpoint_kept_with_the_tests_is_restored(tmp_path, devices, device_name):
    """Made by `python -m tests.fixtures.make_checkpoint`, by an earlier version and on another device than this one.

    `_sharding` is all of a checkpoint that names the device: with another kind's name there it is what that kind saves.
    """
    folder = pathlib.Path(shutil.copytree(FOLDER, tmp_path / "checkpoint"))
    naming = [path for path in folder.rglob("*") if path.is_file() and b"cpu:0" in path.read_bytes()]
    assert [path.name for path in naming] == ["_sharding"]
    naming[0].write_text(naming[0].read_text().replace("cpu:0", device_name))
    like = data_parallel.put_replicated(initial_state(), data_parallel.make_mesh(devices))
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(like, EPOCH)
    outputs, expected = stage().forward(restored.variables, batch()), read_arrays(FOLDER / "outputs.npz")
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, atol=1e-5)
    assert int(restored.step) == EPOCH
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 100_000
