"""Whole or absent: failed writes, full disks, read-only folders, two who want the same; and who may write at all."""

import ast
import errno
import json
import os
import pathlib
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from eqpool.errors import InputError
from eqpool.storage import files
from tests.conftest import REPOSITORY

MEBIBYTE = 2**20


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if not path.name.endswith(".lock"))


@pytest.mark.parametrize("name", ["age", "sex_F", "AD-CN", "$a$ & <b>", "年龄", "a.b", "x" * 100])
def test_a_plain_name_is_its_own_part_of_a_files_name(name):
    assert files.file_name_part(name) == name


@pytest.mark.parametrize("name", ["a/b", "../../x", "a\\b", "a\nb", "x" * 300, "年" * 100, "/" * 300, "\0"])
def test_any_name_is_a_part_of_a_files_name(name, tmp_path):
    part = files.file_name_part(name)
    place = tmp_path / f"before_decoded_t_{part}_bonferroni.nii.gz"
    files.write_text(place, "")
    assert names(tmp_path) == [place.name]
    assert files.file_name_part(name + "y") != part and files.file_name_part(part) == part


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "results.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": float("nan")})

    def half(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"results\.json: cannot be written \(No space left on device\)"):
        files.write_atomically(path, half)
    assert json.loads(path.read_text()) == {"a": 1}
    assert names(tmp_path) == ["results.json"]


def test_a_full_disk_is_one_line_and_the_old_file_stands(tmp_path, full_disk):
    path = tmp_path / "arrays.npz"
    files.write_arrays(path, {"x": np.arange(3)})
    noise = np.random.default_rng(0).random(MEBIBYTE)
    with pytest.raises(InputError, match=r"arrays\.npz: cannot be written \(File too large\)"):
        files.write_arrays(path, {"x": noise})
    assert files.read_arrays(path)["x"].tolist() == [0, 1, 2]
    with (
        pytest.raises(InputError, match=r"cohort: cannot be written"),
        files.making_folder(tmp_path / "cohort") as partial,
    ):
        files.allocate_array(partial / "volumes.npy", (MEBIBYTE,))
    assert names(tmp_path) == ["arrays.npz"]


def test_space_for_an_array_is_taken_before_it_is_written_to(tmp_path):
    """A sparse map on a full disk would end the process with a bus error at some later write."""
    array = files.allocate_array(tmp_path / "x.npy", (64, 1024))
    assert (tmp_path / "x.npy").stat().st_blocks * 512 >= array.nbytes and not array.any()


def test_a_read_only_folder_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)  # the superuser who may run this ignores a folder's mode
    with pytest.raises(InputError, match=r"a\.json: cannot be written \(Read-only file system\)"):
        files.write_json(tmp_path / "a.json", {})


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    final = tmp_path / "cohort"
    with pytest.raises(RuntimeError), files.making_folder(final) as partial:
        (partial / "half").write_text("")
        raise RuntimeError
    assert names(tmp_path) == []
    (tmp_path / f"{files.PART}cohort").mkdir()  # what a killed process leaves
    (tmp_path / f"{files.PART}cohort" / "old").write_text("")
    with files.making_folder(final) as partial:
        assert partial is not None and not list(partial.iterdir())
        (partial / "whole").write_text("")
    assert names(tmp_path) == ["cohort", "whole"]
    with files.making_folder(final) as partial:
        assert partial is None


def test_of_several_who_want_a_folder_one_makes_it_and_the_others_wait(tmp_path):
    def make(_) -> bool:
        with files.making_folder(tmp_path / "final") as partial:
            if partial is not None:
                time.sleep(0.2)
                (partial / "x").write_text("")
        assert (tmp_path / "final" / "x").exists()
        return partial is not None

    with ThreadPoolExecutor(4) as executor:  # a lock of flock's belongs to the open file, not to the process
        assert sorted(executor.map(make, range(4))) == [False, False, False, True]


def test_who_waits_says_so_and_a_disk_without_locks_is_one_line(tmp_path, monkeypatch, capsys):
    def enter():
        with files.one_process(tmp_path / "shards"):
            pass

    with ThreadPoolExecutor(1) as executor:
        with files.one_process(tmp_path / "shards"):
            waiting = executor.submit(enter)
            while "waiting for another run" not in (said := capsys.readouterr().err):
                time.sleep(0.01)
            assert not waiting.done()
        waiting.result(timeout=10)
    assert str(tmp_path / "shards") in said

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"shards: cannot be written \(No locks available\)"):
        enter()


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"9" * 5000])
def test_what_is_no_json_names_the_file(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: expected a JSON file"):
        files.read_json(tmp_path / "a.json")


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "a.npz", x=np.array([Trap()], dtype=object))
    with pytest.raises(InputError, match=r"a\.npz: expected an npz file of plain arrays"):
        files.read_arrays(tmp_path / "a.npz")
    assert not (tmp_path / "sprung").exists()


SOURCES = sorted([*(REPOSITORY / "eqpool").rglob("*.py"), *(REPOSITORY / "experiments").rglob("*.py")])


def _calls(path: pathlib.Path) -> list[tuple[str, ast.Call]]:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(ast.unparse(call.func), call) for call in calls]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_module_unpickles_or_writes_past_the_one_helper(path):
    text = path.read_text()
    assert "import pickle" not in text and "import joblib" not in text and "shelve" not in text
    assert not re.search(r"from joblib import .*\b(load|dump)\b", text)
    for name, call in _calls(path):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle") == "False", f"{path}, line {call.lineno}"
        if path.name != "files.py":
            assert name.rpartition(".")[2] not in ("write_text", "write_bytes", "savez", "savez_compressed") or (
                name in ("files.write_text", "write_text")
            ), f"{path}, line {call.lineno}: {name} writes past eqpool.storage.files"
