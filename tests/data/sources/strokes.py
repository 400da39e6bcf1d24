"""Small digits drawn from strokes whose thickness and slant are known."""

import gzip
import hashlib
import struct

import numpy as np

from eqpool.data.sources import downloads

_SUBPIXELS = 8


def draw(*corners, thickness=3.0, side=28):
    """(side, side) uint8: a line through the corners (column, row), in pixels from the top left, with round ends."""
    places = (np.arange(side * _SUBPIXELS) + 0.5) / _SUBPIXELS
    column, row = np.meshgrid(places, places)
    distance = np.full(column.shape, np.inf)
    for start, end in zip(corners[:-1], corners[1:], strict=True):
        along = np.subtract(end, start)
        share = ((column - start[0]) * along[0] + (row - start[1]) * along[1]) / max(along @ along, 1e-9)
        share = np.clip(share, 0, 1)
        away = np.hypot(column - start[0] - share * along[0], row - start[1] - share * along[1])
        distance = np.minimum(distance, away)
    ink = (distance < thickness / 2).reshape(side, _SUBPIXELS, side, _SUBPIXELS).mean(axis=(1, 3))
    return np.rint(255 * ink).astype(np.uint8)


def line(slant_degrees=0.0, **options):
    lean = 8 * np.tan(np.radians(slant_degrees))
    return draw((14 - lean, 22), (14 + lean, 6), **options)


def ring(**options):
    angles = np.linspace(0, 2 * np.pi, 40)
    return draw(*zip(14 + 6 * np.cos(angles), 14 + 8 * np.sin(angles), strict=True), **options)


def seven(**options):
    return draw((8, 7), (20, 7), (12, 22), **options)


def zigzag(**options):
    return draw((19, 6), (10, 7), (10, 13), (18, 15), (17, 21), (9, 22), **options)


def mnist_like(count, seed=0):
    """(count, 28, 28) uint8 digits of several shapes and thicknesses."""
    random = np.random.default_rng(seed)
    shapes = (line, ring, seven, zigzag)
    return np.stack([shapes[i % 4](thickness=random.uniform(2, 4)) for i in range(count)])


def idx(images):
    """The images in the format of MNIST's files."""
    return struct.pack(">4I", 0x803, *images.shape) + images.tobytes()


def write_mnist(folder, monkeypatch, **contents):
    """Writes `train` and `test` (bytes) as MNIST's files, with the checksums made to fit."""
    names = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
    folder.mkdir(exist_ok=True)
    for split, content in contents.items():
        (folder / names[split]).write_bytes(gzip.compress(content))
        monkeypatch.setitem(downloads.CHECKSUMS, names[split], hashlib.sha256(content).hexdigest())
    return folder
