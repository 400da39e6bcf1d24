"""A figure that fails or has too few rows is a line in the report: the run keeps its results and ends well."""

import dataclasses
import errno
import json
import shutil

import numpy as np
import pytest

from eqpool.errors import InputError
from eqpool.report import drawing
from eqpool.report.__main__ import main
from eqpool.report.drawing import has_failed, write_figures
from eqpool.report.figures import FIGURES, FigureKind
from eqpool.report.page import write_report
from eqpool.report.workfolder import read_workfolder
from eqpool.storage.run_folder import RunFolder


@pytest.fixture
def run_folder(trained_volumes, tmp_path):
    """A copy of a finished run, without what a report does not read."""
    folder = tmp_path / "run"
    shutil.copytree(trained_volumes, folder, ignore=shutil.ignore_patterns("checkpoints", "derivatives", "figures"))
    return folder


def only(*names: str, **changes) -> tuple[FigureKind, ...]:
    """The figures of these names, with `changes` of the first."""
    first, *others = (kind for kind in FIGURES if kind.name in names)
    return first._replace(**changes), *others


def failing(error: Exception):
    def fail(work):
        raise error

    return fail


@pytest.fixture
def as_users_run_it(monkeypatch):
    monkeypatch.delenv(drawing.STRICT)


@pytest.mark.parametrize("part", ["exists", "draw", "alt", "remark", "too_little"])
def test_a_figure_that_fails_is_a_line_and_is_drawn_by_the_next_call(part, run_folder, capsys, as_users_run_it):
    write_report(run_folder, kinds=only("training_curves", **{part: failing(ValueError("<b>bad\n label $"))}))
    said = capsys.readouterr().err
    assert said.startswith("eqpool: figure training_curves was not drawn (ValueError: <b>bad label $)")
    assert said.count("\n") == 1
    page = (run_folder / "report.html").read_text()
    assert "could not be drawn (ValueError: &lt;b&gt;bad label $)" in page and "<b>bad" not in page
    assert has_failed(RunFolder(run_folder)) and not (run_folder / "figures" / "training_curves.png").exists()
    write_report(run_folder, kinds=only("training_curves"))
    assert capsys.readouterr().err == ""
    assert not has_failed(RunFolder(run_folder)) and (run_folder / "figures" / "training_curves.png").exists()
    assert "could not be drawn" not in (run_folder / "report.html").read_text()


def test_the_same_command_draws_again_what_failed(run_folder, capsys, as_users_run_it):
    from eqpool.commands.run import run

    write_report(run_folder, kinds=only("training_curves", draw=failing(RuntimeError("no"))))
    assert has_failed(RunFolder(run_folder))
    run(RunFolder(run_folder).read_config(), run_folder)
    assert not has_failed(RunFolder(run_folder)) and "<figure" in (run_folder / "report.html").read_text()
    assert "was not drawn (RuntimeError: no)" in capsys.readouterr().err


def test_other_figures_stay_and_an_old_picture_goes(run_folder, capsys, as_users_run_it):
    work, names = read_workfolder(run_folder), ("covariate_by_site", "training_curves")
    assert all(one.path for one in write_figures(work, only(*names)))
    first, second = write_figures(work, only(*names, draw=failing(MemoryError("8 GB"))))
    assert first.path is None and "MemoryError: 8 GB" in first.absent and second.path
    assert not list((run_folder / "figures").glob("covariate_by_site.*"))


def test_a_full_disk_is_not_taken_for_a_figure_that_failed(run_folder, as_users_run_it):
    full = OSError(errno.ENOSPC, "No space")
    with pytest.raises(OSError, match="No space"):
        write_figures(read_workfolder(run_folder), only("training_curves", draw=failing(full)))
    refused = InputError("figures: cannot be written")
    refused.__cause__ = full
    with pytest.raises(InputError):
        write_figures(read_workfolder(run_folder), only("training_curves", draw=failing(refused)))


def test_in_tests_a_bug_in_a_figure_is_raised(run_folder):
    with pytest.raises(KeyError, match="bug"):
        write_figures(read_workfolder(run_folder), only("training_curves", draw=failing(KeyError("bug"))))


def test_an_error_of_a_page_is_cut(run_folder, capsys, as_users_run_it):
    write_figures(read_workfolder(run_folder), only("training_curves", draw=failing(ValueError("x" * 5000))))
    assert len(capsys.readouterr().err) < 600


def test_few_rows_have_lines_in_place_of_pictures(run_folder, capsys):
    """The run holds six rows out."""
    assert main([f"--workdir={run_folder}"]) == 0
    page = (run_folder / "report.html").read_text()
    held_out = json.loads((run_folder / "results.json").read_text())["counts"]["by_split"]["test"]
    assert held_out < 10
    for name in ("latent_maps", "tau_by_group", "covariate_trend"):
        assert f'<p class="absent" id="{name}"><b>{name.replace("_", " ")}</b> left out: ' in page
        assert not (run_folder / "figures" / f"{name}.png").exists()
    assert f"a t-SNE of {held_out} held-out rows" in page and f"{held_out} held-out rows show no trend" in page
    assert "sites have fewer than 10 rows: marks alone, no density" in page


def test_enough_rows_have_pictures(run_folder, monkeypatch):
    for least in ("FEWEST_TO_EMBED", "FEWEST_FOR_A_CURVE"):
        monkeypatch.setattr(f"eqpool.report.enough.{least}", 2)
    drawn = {one.kind.name: one for one in write_figures(read_workfolder(run_folder))}
    for name in ("latent_maps", "tau_by_group", "covariate_trend"):
        assert drawn[name].path.read_bytes().startswith(b"\x89PNG") and not drawn[name].absent
        assert "<svg" in drawn[name].path.with_suffix(".svg").read_text()
    assert "no density" not in drawn["covariate_by_site"].caption


def test_latents_that_are_not_finite_have_a_line_too(run_folder):
    work = read_workfolder(run_folder)
    assert work.non_finite_rows == 0
    spoilt = work.table.copy()
    spoilt.loc[[0, 3], "phi_1"] = [np.nan, np.inf]
    spoilt.loc[3, "l_0"] = -np.inf
    work = dataclasses.replace(work, embeddings=spoilt)
    assert work.non_finite_rows == 2
    absent = {one.kind.name: one.absent for one in write_figures(work) if one.path is None}
    assert set(absent) == {"latent_maps", "covariate_trend", "tau_by_group"}
    assert set(absent.values()) == {"left out: the latents of 2 rows are not finite"}
