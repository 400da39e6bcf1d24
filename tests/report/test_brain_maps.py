"""The statistical maps, drawn from small NIfTI files: which voxels are shown, on which scale, and what is written."""

import dataclasses

import nibabel
import numpy as np
import pytest

from eqpool.report.brain_maps import CUTS_MM, FORM_TITLES, draw_share_maps, draw_t_maps
from eqpool.report.drawing import write_figures
from eqpool.report.figures import FIGURES
from eqpool.report.workfolder import read_workfolder
from eqpool.storage.files import file_name_part, write_json
from eqpool.storage.run_folder import RunFolder

AFFINE = np.array([[8.0, 0, 0, -90], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]])  # the template's box, 8 mm voxels
CONTRAST = "AD-Control"
KINDS = {kind.name: kind for kind in FIGURES}


def write_maps(folder, drop=()):
    """maps/ of a run whose site effect pooling removes and whose age effect it keeps; returns what maps.json holds."""
    place = np.stack(np.meshgrid(*(np.arange(size) for size in (23, 28, 24)), indexing="ij"), axis=-1) @ AFFINE[:3, :3]
    place = place + AFFINE[:3, 3]

    def blob(centre, width):
        return np.exp(-((place - centre) ** 2).sum(axis=-1) / (2 * width**2))

    brain = blob((0, -18, 5), 40) > 0.2
    facts = {"contrast": CONTRAST, "threshold": 1e-3, "forms": {}}
    for number, form in enumerate(FORM_TITLES):
        t = (9 + number) * brain * (blob((26, -20, -16), 14) - 0.6 * blob((-20, -30, 16), 12))
        shares = {
            "site": brain * (0.6 if form.startswith("before") else 0.05) * blob((0, 40, 20), 35),
            "age": brain * 0.3 * blob((0, -20, 14), 22),
            "dx": brain * 0.2 * blob((26, -20, -16), 18),
        }
        maps = {f"t_{CONTRAST}": t} | {f"r2_{name}": share for name, share in shares.items() if name not in drop}
        own = {}
        for correction, level in (("bonferroni", 6.0), ("fdr", 3.0)):
            maps[f"t_{CONTRAST}_{correction}"] = np.where(np.abs(t) > level, t, 0)
            own[f"voxels_{correction}"] = int((np.abs(t) > level).sum())
        for name, share in shares.items():
            if name not in drop:
                own |= {f"r2_{name}_mean": float(share[brain].mean()), f"r2_{name}_by_chance": 0.01}
        facts["forms"][form] = own
        for name, values in maps.items():
            path = folder / "maps" / f"{form}_{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), AFFINE), path)
    write_json(folder / "maps" / "maps.json", facts)
    return facts


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    return folder, write_maps(folder)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def bar(figure):
    """The colour bar's axes."""
    return next(axes for axes in figure.axes if axes.get_ylabel())


def test_bonferroni_shows_fewer_voxels_in_the_colours_of_fdr(mapped):
    folder, facts = mapped
    strict, lenient = (draw_t_maps(RunFolder(folder), facts, correction) for correction in ("bonferroni", "fdr"))
    for figure, correction in ((strict, "bonferroni"), (lenient, "fdr")):
        counts = [own[f"voxels_{correction}"] for own in facts["forms"].values()]
        assert [text.split("\n")[1] for text in texts(figure)] == [f"{count} voxels" for count in counts]
    assert bar(strict).get_ylim() == bar(lenient).get_ylim()
    assert bar(strict).get_ylabel() == "t, AD-Control, p < 0.001 (Bonferroni)"
    assert bar(lenient).get_ylabel() == "t, AD-Control, p < 0.001 (FDR)"

    def shown(figure) -> int:
        overlays = [axes.get_images()[-1].get_array() for axes in figure.axes if len(axes.get_images()) > 1]
        return sum(int(np.ma.count(np.ma.masked_invalid(values))) for values in overlays)

    assert 0 < shown(strict) < shown(lenient)


def test_the_covariate_has_one_scale_before_and_after_and_says_so(mapped):
    folder, facts = mapped
    figure = draw_share_maps(RunFolder(folder), facts, "age", "partial R² of age")
    assert [text.split("\n")[0] for text in texts(figure)] == list(FORM_TITLES.values())
    assert all(text.endswith("(by chance 0.010)") for text in texts(figure))
    slices = [axes for axes in figure.axes if len(axes.get_images()) > 1]
    assert len(slices) == len(FORM_TITLES) * len(CUTS_MM)
    limits = {axes.get_images()[-1].get_clim() for axes in slices}
    assert len(limits) == 1 and bar(figure).get_ylim() in limits
    assert bar(figure).get_ylabel() == "partial R² of age"


def test_names_that_no_file_can_have_are_mapped_and_drawn(tmp_path):
    facts = write_maps(tmp_path)
    contrast, covariate = f"A/D$_$-{'x' * 300}", "../age $^$"
    for path in (tmp_path / "maps").glob("*.nii.gz"):
        new = path.name.replace(CONTRAST, file_name_part(contrast)).replace("r2_age", f"r2_{file_name_part(covariate)}")
        path.rename(path.with_name(new))
    forms = {form: own | {f"r2_{covariate}_mean": own["r2_age_mean"]} for form, own in facts["forms"].items()}
    facts |= {"contrast": contrast, "forms": forms}
    run = RunFolder(tmp_path)
    for figure in (draw_t_maps(run, facts, "fdr"), draw_share_maps(run, facts, covariate, covariate)):
        figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").is_file()


def test_maps_of_an_older_version_have_no_chance_to_tell(mapped):
    folder, facts = mapped
    older = {form: {k: v for k, v in own.items() if "by_chance" not in k} for form, own in facts["forms"].items()}
    figure = draw_share_maps(RunFolder(folder), facts | {"forms": older}, "site", "site")
    assert all(text.count("\n") == 1 for text in texts(figure))


def test_the_report_draws_site_covariate_target_and_both_thresholds(trained_volumes, tmp_path):
    work = read_workfolder(trained_volumes)
    assert (work.covariate, work.target) == ("age", "dx")
    work = dataclasses.replace(work, folder=RunFolder(tmp_path), maps=write_maps(tmp_path))
    names = ["site_maps", "covariate_maps", "t_maps_bonferroni", "t_maps", "target_maps"]
    kinds = tuple(kind for kind in FIGURES if kind.name.endswith("_maps") or kind.name.startswith("t_maps"))
    kinds = tuple(kind for kind in kinds if kind.name != "latent_maps")
    drawn = {one.kind.name: one for one in write_figures(work, kinds)}
    assert list(drawn) == names and all(one.path.is_file() for one in drawn.values())
    assert [drawn[name].kind.section for name in names] == ["removed", *["kept"] * 4]
    assert "age explains; means: before 0." in drawn["covariate_maps"].alt
    assert "pass Bonferroni: before" in drawn["t_maps_bonferroni"].alt


def test_what_has_no_map_is_not_drawn(trained_volumes, tmp_path):
    work = read_workfolder(trained_volumes)
    mapped = dataclasses.replace(work, folder=RunFolder(tmp_path), maps=write_maps(tmp_path, drop=("site", "dx")))
    exist = {name: KINDS[name].exists(mapped) for name in ("site_maps", "covariate_maps", "target_maps", "t_maps")}
    assert exist == {"site_maps": False, "covariate_maps": True, "target_maps": False, "t_maps": True}
    without = dataclasses.replace(mapped, maps=None, embeddings=None)  # as an ISTN's
    assert not any(KINDS[name].exists(without) for name in exist)
