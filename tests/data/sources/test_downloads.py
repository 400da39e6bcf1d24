import gzip
import hashlib

import pytest

from eqpool.data.sources import downloads
from eqpool.errors import InputError

IMAGES = "t10k-images-idx3-ubyte.gz"
CONTENT = bytes(range(256)) * 20


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(downloads.CHECKSUMS, IMAGES, hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(downloads.CHECKSUMS, "german.data", hashlib.sha256(b"rows").hexdigest())
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / IMAGES).write_bytes(gzip.compress(CONTENT))
    (folder / "german.data").write_bytes(b"rows")
    return folder


def test_a_local_copy(folder, tmp_path):
    assert downloads.raw_files((IMAGES, "german.data"), str(folder), tmp_path / "unused") == folder
    assert downloads.read_raw(folder / IMAGES) == CONTENT
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("level", [1, 9])
def test_how_a_copy_was_compressed_does_not_matter(folder, level):
    (folder / IMAGES).write_bytes(gzip.compress(CONTENT, level, mtime=level))
    downloads.verify(folder / IMAGES, IMAGES)


@pytest.mark.parametrize(("name", "owner"), [(IMAGES, "MNIST's"), ("german.data", "UCI's")])
def test_a_missing_copy_names_where_it_comes_from(folder, name, owner):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file; expected {owner} {name} .https://"):
        downloads.raw_files((name,), str(folder), folder)


@pytest.mark.parametrize(("name", "owner"), [(IMAGES, "MNIST's"), ("german.data", "UCI's")])
def test_an_altered_copy(folder, name, owner):
    altered = b"other rows"
    (folder / name).write_bytes(gzip.compress(altered) if name == IMAGES else altered)
    with pytest.raises(InputError) as caught:
        downloads.raw_files((name,), str(folder), folder)
    message = str(caught.value)
    assert hashlib.sha256(altered).hexdigest() in message and downloads.CHECKSUMS[name] in message
    assert str(folder / name) in message and owner in message and "\n" not in message


@pytest.mark.parametrize("content", [gzip.compress(CONTENT)[:100], b"<html>", b""], ids=["cut", "page", "empty"])
def test_not_a_whole_gzip_file(folder, content):
    (folder / IMAGES).write_bytes(content)
    with pytest.raises(InputError) as caught:
        downloads.raw_files((IMAGES,), str(folder), folder)
    assert str(caught.value).startswith(f"{folder / IMAGES}: ") and "\n" not in str(caught.value)


def test_damaged_inside(folder):
    content = bytearray(gzip.compress(CONTENT))
    content[20] ^= 0xFF
    (folder / IMAGES).write_bytes(content)
    with pytest.raises(InputError, match="expected a whole gzip file"):
        downloads.verify(folder / IMAGES, IMAGES)


@pytest.fixture
def server(folder, serve):
    return serve(folder)


def test_a_download_is_verified_and_kept(folder, server, tmp_path, monkeypatch):
    monkeypatch.setitem(downloads.URLS, IMAGES, f"{server}/{IMAGES}")
    kept = downloads.raw_files((IMAGES,), "", tmp_path / "downloads")
    (folder / IMAGES).unlink()
    assert downloads.raw_files((IMAGES,), "", tmp_path / "downloads") == kept
    assert [path.name for path in kept.iterdir()] == [IMAGES]


@pytest.mark.parametrize("content", [gzip.compress(b"other"), b"<html>"], ids=["other", "page"])
def test_a_wrong_download_is_not_kept(folder, server, tmp_path, monkeypatch, content):
    (folder / IMAGES).write_bytes(content)
    url = f"{server}/{IMAGES}"
    monkeypatch.setitem(downloads.URLS, IMAGES, url)
    with pytest.raises(InputError) as caught:
        downloads.raw_files((IMAGES,), "", tmp_path / "downloads")
    assert str(caught.value).startswith(url)
    assert not list((tmp_path / "downloads").iterdir())


@pytest.mark.parametrize("address", ["{server}/nowhere", "http://127.0.0.1:9/closed"], ids=["absent", "closed"])
def test_no_download(server, tmp_path, monkeypatch, address):
    monkeypatch.setitem(downloads.URLS, IMAGES, address.format(server=server))
    with pytest.raises(InputError, match="cannot be downloaded .* give config.data.raw_dir"):
        downloads.raw_files((IMAGES,), "", tmp_path / "downloads")
    assert not list((tmp_path / "downloads").iterdir())
