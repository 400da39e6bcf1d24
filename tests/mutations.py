"""Damage to files, drawn at random: what disks, transfers, spreadsheets and other programs do to them."""

import contextlib
import signal
import struct
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np

INTERESTING = (b"\x00\x00", b"\xff\xff", b"\xff\x7f", b"\x00\x80", b"\x01\x00", b"\x00\x01")
FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e38, 1e-45, 1e9)
HEADER_FIELDS = {  # offset in a NIfTI-1 header: format
    0: "i", 40: "8h", 42: "h", 44: "h", 46: "h", 48: "h", 70: "h", 72: "h", 76: "f", 80: "f", 84: "f", 88: "f",
    108: "f", 112: "f", 116: "f", 123: "b", 252: "h", 254: "h", 256: "f", 268: "f", 280: "f", 292: "f", 296: "f",
    312: "f", 328: "f", 344: "4s", 348: "4s", 352: "i",
}  # fmt: skip


def any_bytes(content: bytes, random: np.random.Generator) -> bytes:
    """Flipped bits, overwritten runs, holes, insertions, a cut or a repeated end."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        size = max(1, len(data))
        at, kind = int(random.integers(size)), int(random.integers(6))
        if kind == 0 and data:
            data[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            data[at : at + 2] = INTERESTING[int(random.integers(len(INTERESTING)))]
        elif kind == 2:
            del data[at : at + int(random.integers(1, 200))]
        elif kind == 3:
            data[at:at] = random.bytes(int(random.integers(1, 50)))
        elif kind == 4:
            del data[at:]
        else:
            data += data[at:][:1000]
    return bytes(data)


def nifti_header(content: bytes, random: np.random.Generator) -> bytes:
    """One to three fields of an uncompressed NIfTI-1 file set to what they should not be."""
    data = bytearray(content)
    for offset in random.choice(list(HEADER_FIELDS), int(random.integers(1, 4)), replace=False).tolist():
        form = HEADER_FIELDS[offset]
        if form == "f":
            new = struct.pack("<f", FLOATS[int(random.integers(len(FLOATS)))])
        elif form == "8h":
            new = struct.pack("<8h", *random.choice([-1, 0, 1, 2, 3, 7, 24, 32767], 8))
        else:
            new = random.bytes(struct.calcsize(f"<{form}"))
        data[offset : offset + len(new)] = new
    return bytes(data)


CELLS = (
    "", "n/a", "nan", "inf", "-1e999", "1_000", "0x10", "1,5", "\u0661", "\u00a0", "'", '"', "a\tb", "\x00", "../x",
    "/etc/passwd", "x" * 200_000, "9" * 400, "1e308", "-0", "NULL", "=1+1", "\u202e", "sub-00", "\U0001f600",
)  # fmt: skip


def table(content: bytes, random: np.random.Generator) -> bytes:
    """Cells, columns and rows of a tab-separated table changed, dropped, doubled; sometimes its bytes."""
    if random.random() < 0.25:
        return any_bytes(content, random)
    rows = [line.split("\t") for line in content.decode().splitlines()]
    for _ in range(int(random.integers(1, 4))):
        row, kind = int(random.integers(len(rows))), int(random.integers(6))
        column = int(random.integers(max(1, len(rows[row]))))
        cell = CELLS[int(random.integers(len(CELLS)))]
        if kind <= 1 and rows[row]:
            rows[row][column % len(rows[row])] = cell
        elif kind == 2 and len(rows) > 1:
            del rows[row]
        elif kind == 3:
            rows.insert(row, list(rows[int(random.integers(len(rows)))]))
        elif kind == 4:
            rows[row].append(cell)
        else:
            for each in rows:  # a whole column
                if each:
                    each[column % len(each)] = cell
    return "\n".join("\t".join(row) for row in rows).encode("utf-8", "surrogatepass")


VALUES = (None, True, -1, 0, 1e308, 10**30, "", "x", [], {}, [[]], {"a": {}}, "../..", 0.5, [1, "a"])


def json_tree(tree: object, random: np.random.Generator) -> object:
    """One value anywhere in a tree of JSON replaced, renamed or dropped."""
    if isinstance(tree, dict | list) and tree and random.random() < 0.8:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = keys[int(random.integers(len(keys)))]
        copy = dict(tree) if isinstance(tree, dict) else list(tree)
        if isinstance(copy, dict) and random.random() < 0.2:
            copy[f"{key}_"] = copy.pop(key)
        elif random.random() < 0.15:
            del copy[key]
        else:
            copy[key] = json_tree(copy[key], random)
        return copy
    return VALUES[int(random.integers(len(VALUES)))]


@contextlib.contextmanager
def bounded(seconds: int = 20, mebibytes: int = 64) -> Iterator[None]:
    """Raises AssertionError where the block takes more time or memory."""

    def hang(*_: object) -> None:
        raise AssertionError(f"still at work after {seconds} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    tracemalloc.start()
    started = time.monotonic()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        assert peak < mebibytes, f"{peak:.0f} MiB"
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - started < seconds
