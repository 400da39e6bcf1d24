"""Both sides of a comparison compute the same number, and the command says what it lacks. Nothing is timed here."""

import importlib.util
import subprocess
import sys

import pytest

from benchmarks.comparisons import comparisons

SMALL = [
    ("group_maps", {"name": "cayley", "n": 6, "batch": 3, "gradient": True}),
    ("group_maps", {"name": "expm", "n": 6, "batch": 3, "gradient": False}),
    ("equivariance", {"rows": 9, "n": 6, "form": "pairwise"}),
    ("equivariance", {"rows": 9, "n": 6, "form": "linear"}),
    ("mmd", {"rows": 20, "sites": 3, "gradient": True}),
    ("mmd", {"rows": 20, "sites": 3, "gradient": False}),
]
NETWORKS = [
    ("resnet3d", {"shape": (21, 22, 23), "batch": 2}),
    ("istn", {"kind": "affine", "side": 40, "batch": 2, "dropout": 0.0}),
    ("istn", {"kind": "bspline", "side": 40, "batch": 2, "dropout": 0.0}),
]


def both(module: str, sizes: dict) -> list[float]:
    pytest.importorskip("torch")
    function = next(one.function for one in comparisons() if one.module == module)
    sides = (importlib.import_module(f"benchmarks.{side}.{module}") for side in ("ours", "pytorch"))
    return [getattr(side, function)(**sizes).run() for side in sides]


@pytest.mark.parametrize(("module", "sizes"), SMALL, ids=str)
def test_both_sides_compute_the_same_number(module, sizes):
    ours, torch = both(module, sizes)
    assert ours == pytest.approx(torch, rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(("module", "sizes"), NETWORKS, ids=str)
def test_both_networks_start_at_the_same_loss(module, sizes):
    ours, torch = both(module, sizes)
    assert ours == pytest.approx(torch, rel=1e-3)


@pytest.mark.parametrize("stage", ["stage_one", "stage_two"])
def test_both_stages_start_at_the_same_loss(stage):
    pytest.importorskip("torch")
    ours, torch = (importlib.import_module(f"benchmarks.{side}.tables") for side in ("ours", "pytorch"))
    assert ours.first_loss("adult", stage, 16, 7) == pytest.approx(torch.first_loss("adult", stage, 16, 7), rel=1e-4)


def test_every_row_has_a_name_of_its_own():
    names = [one.name for one in comparisons()]
    assert len(set(names)) == len(names)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is here")
def test_without_torch_one_line_says_what_to_install():
    done = subprocess.run([sys.executable, "-m", "benchmarks.against_torch"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "eqpool[torch-benchmarks]" in done.stderr
