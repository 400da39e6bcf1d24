"""The pictures of people, from a finished run's files."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from eqpool.report.curves import draw_training_curves, istn_levels, kept_epochs
from eqpool.report.drawing import write_figures
from eqpool.report.figures import FIGURES
from eqpool.report.people import covariate_groups, draw_samples
from eqpool.report.sites import draw_by_site, embed
from eqpool.report.workfolder import read_workfolder
from eqpool.storage.files import write_json
from eqpool.storage.run_folder import RunFolder


def test_groups_are_equally_large_and_in_order():
    values = np.random.default_rng(0).uniform(50, 90, 400)
    group, labels = covariate_groups(values)
    assert len(labels) == 4 and np.bincount(group).tolist() == [100] * 4
    assert all(values[group == low].max() <= values[group == low + 1].min() for low in range(3))


def test_a_constant_covariate_is_one_group():
    group, labels = covariate_groups(np.full(5, 60.0))
    assert group.tolist() == [0] * 5 and len(labels) <= 1


def test_a_run_keeps_tau_and_samples_of_held_out_rows(trained_volumes, tmp_path):
    work = read_workfolder(trained_volumes)
    test = np.flatnonzero(work.table["split"] == "test")
    assert set(work.tau["rows"]) == set(test)
    n = work.tau["tau"].shape[1]
    np.testing.assert_allclose(
        work.tau["tau"] @ work.tau["tau"].swapaxes(1, 2), np.eye(n)[None].repeat(len(test), 0), atol=1e-4
    )
    samples = work.samples
    np.testing.assert_allclose(samples["harmonised"], samples["input"] + samples["change"], atol=1e-5)
    held_out = work.table.iloc[test]
    for site in set(samples["site"]):
        ages = samples["covariate"][samples["site"] == site]
        assert (np.diff(ages) >= 0).all() and set(ages) <= set(held_out.loc[held_out["site"] == site, "age"])
    drawn = {kind.name: kind for kind in FIGURES if kind.exists(work)}
    for name in ("tau_by_group", "sample_images"):
        drawn[name].draw(work).savefig(tmp_path / f"{name}.png")


def test_sessions_do_not_pass_for_the_site_nor_the_site_for_the_covariate(trained_volumes, tmp_path):
    shutil.copytree(trained_volumes, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "derivatives"))
    before = read_workfolder(tmp_path / "run")
    for name in ("pooled.tsv", "embeddings.tsv"):
        table = pd.read_csv(tmp_path / "run" / name, sep="\t", keep_default_na=False)
        table.insert(1, "session_id", "2")
        table.to_csv(tmp_path / "run" / name, sep="\t", index=False)
    work = read_workfolder(tmp_path / "run")
    assert work.covariate == before.covariate == "age"
    assert list(work.spreads.columns) == list(before.spreads.columns)
    np.testing.assert_array_equal(work.covariate_values, before.covariate_values)
    assert [kind.name for kind in FIGURES if kind.exists(work)] == [
        kind.name for kind in FIGURES if kind.exists(before)
    ]
    {kind.name: kind for kind in FIGURES}["latent_maps"].draw(work).savefig(tmp_path / "figure.png")


def test_the_ring_is_the_epoch_that_was_kept():
    log = pd.DataFrame({"stage": "stage_two", "epoch": [1, 2, 3], "loss": [3.0, 2, 1], "validation_score": [2.0, 1, 3]})
    for keeps, epoch, why in (([], 2, "the lowest score"), (["stage_two"], 3, "the last")):
        loss, score = draw_training_curves(log, keeps).axes
        assert score.lines[-1].get_xdata()[0] == epoch and list(loss.lines[-1].get_xdata()) == [epoch, epoch]
        assert score.get_xlabel() == f"epoch (kept: {epoch}, {why})" and loss.get_xlabel() == "epoch"


def istn_log() -> pd.DataFrame:
    """An ISTN validated every second epoch and best at the fourth, and what training says its models are kept at."""
    epochs = {"stage": "istn", "epoch": range(1, 11), "loss": np.arange(10.0)}
    known = {
        "validation_score": [3.0, 1.0, 2.0, 1.5, 1.2],
        "validation_scratch": [0.1, 0.9, 0.8, 0.5, 0.7],
        "validation_finetuned": [0.3, 0.4, 0.5, 0.4, 0.6],
        "validation_scratch_epoch": [2.0, 4, 6, 8, 8],
        "validation_finetuned_epoch": [2.0, 4, 4, 4, 4],
    }
    apart = {key: np.stack([np.full(5, np.nan), values], axis=1).ravel() for key, values in known.items()}
    task = pd.DataFrame({"stage": "task", "epoch": [1, 2], "loss": [2.0, 1.0], "validation_score": [1.0, 2.0]})
    return pd.concat([task, pd.DataFrame(epochs | apart)], ignore_index=True)


def test_each_retrained_model_has_a_ring_of_its_own():
    log = istn_log()
    kept = kept_epochs(log[log["stage"] == "istn"], last=False)
    after = "the lowest loss since epoch 4"
    assert kept == {
        "validation_score": (4, "the lowest score"),
        "validation_scratch": (8, after),
        "validation_finetuned": (4, after),
    }
    assert kept_epochs(log[log["stage"] == "task"], last=True) == {"validation_score": (2, "the last")}
    assert kept_epochs(log[:0], last=False) == {}
    figure = draw_training_curves(log)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[4:] == ["istn: loss on S2T, from scratch", "istn: loss on S2T, fine-tuned"]
    rings = [
        tuple(np.ravel(line.get_data()))
        for axes in figure.axes
        for line in axes.lines[1:]
        if len(line.get_xdata()) == 1
    ]
    assert rings == [(1, 1.0), (4, 1.0), (8, 0.5), (4, 0.4)]


def test_the_game_of_an_istn_is_drawn_beside_its_limits():
    log = istn_log().assign(discriminator=0.5, generator=1.0)
    log.loc[log["stage"] == "task", ["discriminator", "generator"]] = np.nan
    levels = istn_levels({"selection_score_before": 2.5}, {"istn": {"softness": 0.0}})
    figure = draw_training_curves(log, (), levels)
    panels = {axes.get_title(): axes for axes in figure.axes}
    lines = {
        title: [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        for title, axes in panels.items()
    }
    assert lines["istn: discriminator loss"] == [np.log(2), 0] and lines["istn: validation score"] == [2.5]
    assert lines["task: validation score"] == lines["istn: generator loss"] == []
    score = panels["istn: validation score"]
    assert [text.get_text() for text in score.texts] == ["images as they are"]
    assert score.get_xlabel() == "epoch (kept: 4, the lowest score)"
    assert istn_levels({}, {}) == {}


def test_the_caption_tells_the_rings_of_retrained_models_where_there_are_any(trained_volumes):
    work, kind = read_workfolder(trained_volumes), {kind.name: kind for kind in FIGURES}["training_curves"]
    assert kind.remark(work) == ""
    assert "rings of their own" in kind.remark(dataclasses.replace(work, log=istn_log()))


def test_a_compared_baselines_latent_stands_beside_tau(trained_volumes):
    work = read_workfolder(trained_volumes)
    naive = dataclasses.replace(work, tau=None, results=work.results | {"method": "naive"})
    kind = {kind.name: kind for kind in FIGURES}["tau_by_group"]
    titles = [axes.get_title() for axes in kind.draw(dataclasses.replace(work, compared=(naive, work))).axes]
    assert titles == ["latent before pooling", "tau", "latent of naive"]


def test_one_line_a_site_and_three_panels_a_person():
    samples = {name: np.random.default_rng(0).normal(size=(4, 6, 7)) for name in ("input", "harmonised", "change")}
    samples |= {"site": np.array(["A", "A", "B", "B"]), "covariate": np.array([50.0, 60, 55, 70])}
    figure = draw_samples(samples, "age")
    assert len(figure.axes) == 2 * 6 + 1


def test_the_covariate_and_the_score_are_drawn_by_site(trained_volumes):
    work = read_workfolder(trained_volumes)
    assert list(work.spreads.columns) == ["mmse", "age"] and not work.spreads_left_out
    drawn = {kind.name: kind for kind in FIGURES if kind.exists(work)}["covariate_by_site"]
    panels = drawn.draw(work).axes
    assert [axes.get_xlabel() for axes in panels] == ["mmse (dot: median)", "age (dot: median)"]
    sites = [label.get_text() for label in panels[0].get_yticklabels()]
    counts = work.pooled["site"].value_counts()
    assert sites == [f"{name} (n = {counts[name]})" for name in sorted(counts.index, reverse=True)]
    assert "Density of age" in drawn.alt(work) and "Density of mmse" in drawn.alt(work)


def of_columns(work, covariates, target, described, classes=()):
    """The run with a pooled.tsv of these columns: numbers that all differ, or as many values as a number says."""
    rows = np.arange(len(work.pooled), dtype=float)
    columns = {
        name: rows if levels is None else rows % levels for name, levels in (covariates | target | described).items()
    }
    facts = work.facts | {
        "covariate_names": list(covariates),
        "target_name": [*target][0],
        "target_classes": [*classes],
    }
    return dataclasses.replace(work, facts=facts, pooled=work.pooled.iloc[:, :3].assign(**columns))


def test_what_is_described_is_always_drawn_and_what_is_left_out_is_said(trained_volumes, tmp_path):
    work = read_workfolder(trained_volumes)
    many = {f"covariate_{number}": None for number in range(6)}
    crowded = of_columns(work, {"age": None} | many, {"score": None}, {"mmse": None, "stage": 2})
    assert list(crowded.spreads.columns) == ["mmse", "stage", "age", "covariate_0", "covariate_1", "covariate_2"]
    assert crowded.spreads_left_out == ["covariate_3", "covariate_4", "covariate_5", "score"]
    figure = draw_by_site(crowded.spreads, crowded.pooled["site"].to_numpy(dtype=np.str_))
    assert len(figure.axes) == 6 and figure.axes[3].get_subplotspec().rowspan.start == 1

    tests = of_columns(
        work, {"age": None, "weight": None}, {"score": None}, {f"test_{number}": None for number in range(7)}
    )
    assert list(tests.spreads.columns) == [*(f"test_{number}" for number in range(7)), "age"]
    figure = draw_by_site(tests.spreads, tests.pooled["site"].to_numpy(dtype=np.str_))
    assert [axes.get_xlabel().split()[0] for axes in figure.axes] == list(tests.spreads.columns)

    kinds = tuple(kind for kind in FIGURES if kind.name == "covariate_by_site")
    (drawn,) = write_figures(dataclasses.replace(tests, folder=RunFolder(tmp_path)), kinds)
    assert drawn.caption.endswith("Left out for want of room: weight, score; pooled.tsv has them.")
    (whole,) = write_figures(dataclasses.replace(work, folder=RunFolder(tmp_path)), kinds)
    few = "3 of 3 sites have fewer than 10 rows: marks alone, no density."
    assert whole.caption == f"{kinds[0].caption} {few}"


def test_classes_that_are_coded_as_numbers_take_no_panel(trained_volumes):
    work = read_workfolder(trained_volumes)
    coded = of_columns(work, {"age": None, "sex": 2}, {"dx": 3}, {"mmse": None}, classes=("0", "1", "2"))
    assert list(coded.spreads.columns) == ["mmse", "age"] and not coded.spreads_left_out
    counted = of_columns(work, {"age": None}, {"falls": 3}, {})
    assert list(counted.spreads.columns) == ["age", "falls"]
    assert list(dataclasses.replace(coded, facts={}).spreads.columns) == ["age", "dx", "mmse"]  # of an older version


def test_a_site_without_a_value_is_a_line_without_a_density():
    table = pd.DataFrame({"score": [*np.arange(10.0), np.nan]})
    figure = draw_by_site(table, np.array([*"AAAAAAAAAAB"]))
    assert len(figure.axes[0].get_yticklabels()) == 2 and len(figure.axes[0].collections) == 1


@pytest.mark.parametrize(("rows", "densities"), [(9, 0), (10, 1)])
def test_a_density_takes_ten_rows(rows, densities):
    figure = draw_by_site(pd.DataFrame({"score": np.arange(float(rows))}), np.full(rows, "A"))
    assert len(figure.axes[0].collections) == densities


def test_few_rows_have_places_too():
    for rows in (2, 3, 4, 6):
        places = embed(np.random.default_rng(0).normal(size=(rows, 5)))
        assert places.shape == (rows, 2) and np.isfinite(places).all() and len(np.unique(places, axis=0)) == rows


@pytest.mark.parametrize("own", [True, False])
def test_a_column_of_ones_own_that_is_named_like_the_overlap_stays(tmp_path, own):
    """And the run's own column of that name, which no figure shows, does not pass for a described one."""
    who = (
        "participant_id\tsplit\tsite\tmask_overlap\tx\n"
        if own
        else "participant_id\tsplit\tsite\tage\tx\tmask_overlap\n"
    )
    rows = [f"sub-{row}\ttest\ta\t{row / 8}\t{row}" + ("\n" if own else "\t0.9\n") for row in range(6)]
    covariates = ["mask_overlap" if own else "age"]
    (tmp_path / "pooled.tsv").write_text(who + "".join(rows))
    embeddings = [line.rstrip("\n") + "\t0\t0\n" for line in (who, *rows)]
    (tmp_path / "embeddings.tsv").write_text(embeddings[0].replace("\t0\t0", "\tl_0\tphi_0") + "".join(embeddings[1:]))
    facts = {"covariate_names": covariates, "target_name": "x", "target_classes": []}
    for name, content in (("config", {"data": {"described": ""}}), ("results", {}), ("model", facts)):
        write_json(tmp_path / f"{name}.json", content)
    work = read_workfolder(tmp_path)
    assert list(work.spreads.columns) == [*covariates, "x"] and work.covariate == covariates[0]
