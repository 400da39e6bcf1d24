"""report.html as a reader gets it: self-contained, described, honest about simulated data."""

import html.parser
import json
import re
import shutil

import pandas as pd
import pytest

from eqpool.errors import InputError
from eqpool.report.__main__ import main
from eqpool.report.page import study_name, write_report
from eqpool.report.workfolder import WorkFolder, read_workfolder
from eqpool.storage.run_folder import RunFolder
from tests.report.test_score_table import BETTER, WORSE, card

# What the run of the fixture leaves out, because probes take most of its time.
METRICS = {
    "site_chance": 1 / 3,
    "site_floor": 0.5,
    "site_floor_interval": [0.4, 0.6],
    "strongest_probe_before": 0.9,
    "strongest_probe_before_interval": [0.8, 1.0],
    "strongest_probe": 0.5,
    "strongest_probe_interval": [0.4, 0.6],
    "mmd": 1.0,
    "mmd_p_value": 0.2,
    "accuracy": 80.0,
    "accuracy_interval": [70.0, 90.0],
    "majority_accuracy": 60.0,
}


class Page(html.parser.HTMLParser):
    """The images, headings and links of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.images: list[dict] = []
        self.outside: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "img":
            self.images.append(found)
        self.outside += [found[key] for key in ("src", "href") if not found.get(key, "data:").startswith("data:")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def workdir(trained_volumes, tmp_path_factory):
    """A copy of the run with metrics in it."""
    folder = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(trained_volumes, folder, ignore=shutil.ignore_patterns("checkpoints", "derivatives"))
    results = json.loads((folder / "results.json").read_text())
    results |= {"metrics": results["metrics"] | METRICS, "command": "python -m eqpool.main --config='<b>'"}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def text(workdir) -> str:
    return write_report(workdir).read_text()


def test_the_page_stands_alone_and_every_image_is_described(text):
    page = Page(text)
    assert not page.outside and not page.open and "url(" not in text
    assert len(page.images) >= 3 and len(page.images) + text.count('<p class="absent"') >= 6  # of 18 people
    for image in page.images:
        assert image["src"].startswith("data:image/png;base64,") and len(image["alt"]) > 30
    assert len({image["alt"] for image in page.images}) == len(page.images)


def test_every_figure_is_a_png_and_an_svg_too(text, workdir):
    names = set(re.findall(r'<figure id="(\w+)"', text))
    assert {"covariate_by_site", "site_probes", "training_curves"} <= names  # others take more held-out rows
    for name in names:
        assert (workdir / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (workdir / "figures" / f"{name}.svg").read_text()


def test_the_page_says_what_came_from_where(text, workdir):
    results = json.loads((workdir / "results.json").read_text())
    assert results["data_hash"] in text and re.fullmatch("[0-9a-f]{64}", results["data_hash"])
    assert "--config=&#39;&lt;b&gt;&#39;" in text  # the command, and nothing in it is taken for HTML
    for package, version in results["versions"].items():
        assert f"{package} {version}" in text
    for finding in results["preflight"]:
        assert finding["check"] and finding["severity"] in text
    assert "not clearly above the accuracy from covariates and target (0.5)" in visible(text)


def test_simulated_data_is_marked_large_and_real_data_is_not(text, workdir):
    assert text.count("SIMULATED DATA") >= 3 and '<p class="simulated"' in text
    results = json.loads((workdir / "results.json").read_text())
    other = workdir.parent / "real"
    shutil.copytree(workdir, other)
    (other / "results.json").write_text(json.dumps(results | {"simulated": False, "notes": []}))
    assert "SIMULATED" not in write_report(other, kinds=()).read_text()


def visible(text: str) -> str:
    """The text of a page as it is seen while no term's meaning is shown."""
    return re.sub("<[^>]*>", "", re.sub(r'<span class="meaning".*?</span>', "", text))


def changed(workdir, tmp_path, **changes) -> str:
    """The page of a copy of the run whose results have these changes; without figures."""
    folder = tmp_path / "changed"
    shutil.copytree(workdir, folder, ignore=shutil.ignore_patterns("images", "figures"))
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | changes))
    return write_report(folder, kinds=()).read_text()


def test_few_held_out_people_are_the_first_thing_that_is_said(text):
    """The run holds out a few of 18 people."""
    warning = text.index('<p class="alarm" role="note"><strong>Warning.</strong> Few people are held out')
    assert warning < text.index("In short") and text.count("ew people are held out") == 1


def test_a_misaligned_cohort_is_said_before_every_result_and_a_stray_volume_below(workdir, tmp_path):
    message = "33 of 40 volumes overlap the template's brain mask by a Dice below 0.85"
    for check, on_top in (("misaligned_cohort", True), ("mask_overlap", False)):
        finding = {"severity": "warning", "check": check, "message": message}
        page = changed(workdir, tmp_path / check, preflight=[finding])
        assert page.count("33 of 40 volumes") == 1
        assert (page.index("33 of 40 volumes") < page.index("In short")) is on_top
        assert ("<strong>Warning.</strong> 33 of 40" in page) is on_top


def test_the_scorecard_is_the_first_thing_in_short(workdir, text, tmp_path):
    """And a run of a version without one has a report all the same."""
    assert '<div class="scorecard">' not in text and "What is handed back" not in text
    scored = changed(workdir, tmp_path, scorecard=card(BETTER, WORSE))
    short = scored[scored.index("<h2>In short</h2>") :]
    verdict = visible(short).index("Site classification accuracy fell from 90% to 62% on 80 held-out rows (ComBat: 60%")
    sentence = visible(short).index("What is handed back is better than the raw input and worse than ComBat.")
    assert verdict < visible(short).index("Who was pooled") < sentence
    assert '<td class="handed-back">0.62<br><span class="quiet">[0.57, 0.67]</span></td>' in short
    assert not Page(scored).open


def test_latents_that_are_not_finite_are_the_first_thing_that_is_said(workdir, tmp_path):
    text = changed(workdir, tmp_path, metrics={"non_finite_rows": 3, "site_floor": 0.5}, preflight=[])
    top = text.index("The latents of 3 rows are not finite: no pooling result can be read from this run.")
    assert top < text.index("In short") and "Nothing else to warn about" in text
    assert "not as hoped" in visible(text)[visible(text).index("rows with a latent that is not finite") :][:400]


def test_what_is_not_defined_is_said_to_be(workdir, tmp_path):
    metrics = METRICS | {"equivariance_error": None, "mmd": None, "mmd_p_value": None, "strongest_probe_interval": None}
    text = changed(workdir, tmp_path, metrics=metrics)
    assert text.count("<td>not defined</td>") == 2 and "tau does not turn between held-out rows" in visible(text)
    assert "nan" not in re.sub(r"<[^>]*>", "", text).split()


def test_sites_and_classes_have_any_name(workdir, tmp_path):
    names = ["<script>", "$a$_", "items", "x" * 200]
    by_site = {name: {"rows": 7, "classes": {"rows": 3, "F & <b>": 4}} for name in names}
    counts = json.loads((workdir / "results.json").read_text())["counts"] | {"by_site": by_site}
    text = changed(workdir, tmp_path, counts=counts)
    assert "<td>&lt;script&gt;</td>" in text and "<td>$a$_</td>" in text and f"<td>{'x' * 200}</td>" in text
    assert text.count('<td class="number">3</td><td class="number">4</td>') == 4  # and a class may be called "rows"
    assert "F &amp; &lt;b&gt;" in text and not Page(text).open


def test_counts_of_before_are_read(workdir, tmp_path):
    counts = json.loads((workdir / "results.json").read_text())["counts"]
    counts |= {"by_site": {"A": {"rows": 9, "AD": 4, "CN": 5}}}
    text = changed(workdir, tmp_path, counts=counts)
    assert '<td class="number">9</td>\n<td class="number">4</td><td class="number">5</td>' in text


@pytest.mark.parametrize(
    ("participants", "dataset", "expected"),
    [
        ("my_study/participants.tsv", "participants", "my_study"),
        ("/data/ixi.csv", "participants", "ixi"),
        ("participants.tsv", "participants", "run"),
        ("", "adni", "adni"),
    ],
)
def test_a_study_of_ones_own_has_its_own_name(participants, dataset, expected, tmp_path):
    config = {"name": "adni", "data": {"participants": participants}}
    work = WorkFolder(RunFolder(tmp_path / "run"), config, {"dataset": dataset}, {}, pd.DataFrame(), None, None, None)
    assert study_name(work) == expected


def test_names_that_look_like_numbers_stay_names(workdir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder, ignore=shutil.ignore_patterns("images", "figures"))
    for name in ("pooled.tsv", "embeddings.tsv"):
        table = pd.read_csv(folder / name, sep="\t")
        table["site"] = [("007", "1e3", "True")[row % 3] for row in range(len(table))]
        table.to_csv(folder / name, sep="\t", index=False)
    assert read_workfolder(folder).site_names == ["007", "1e3", "True"]


def test_runs_on_the_same_data_stand_in_one_table(workdir, tmp_path, capsys):
    results = json.loads((workdir / "results.json").read_text())
    naive = tmp_path / "naive"
    shutil.copytree(workdir, naive, ignore=shutil.ignore_patterns("checkpoints", "derivatives", "images"))
    changed = results | {"method": "naive", "metrics": {"strongest_probe": 0.95, "strongest_probe_interval": None}}
    (naive / "results.json").write_text(json.dumps(changed))
    text = write_report(workdir, [naive], kinds=()).read_text()
    table = text[text.index("Beside other runs") :]
    assert "naive, seed 0" in table and "0.95" in table and "0.5 [0.4, 0.6]" in table
    (naive / "results.json").write_text(json.dumps(changed | {"data_hash": "0" * 64}))
    assert main([f"--workdir={workdir}", "--compare", str(naive)]) == 2
    assert "other data" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"results.json not found"):
        write_report(workdir, [tmp_path / "none"])


@pytest.mark.parametrize(
    ("name", "column"),
    [*(("embeddings.tsv", column) for column in ("split", "site", "age", "l_0", "phi_0")), ("pooled.tsv", "site")],
)
def test_a_table_without_a_column_is_named(name, column, workdir, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder)
    table = pd.read_csv(folder / name, sep="\t").drop(columns=column)
    table.to_csv(folder / name, sep="\t", index=False)
    assert main([f"--workdir={folder}"]) == 2
    expected = f"eqpool: {folder / name}: no column {column}, expected the table that the run wrote\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("content", [b"", b"a\n1\t2\n3\n1\t2\t3\n", b"\xff\xfe\x00"])
def test_a_file_that_is_no_table_is_named(content, workdir, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder)
    (folder / "embeddings.tsv").write_bytes(content)
    assert main([f"--workdir={folder}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"eqpool: {folder / 'embeddings.tsv'}: ") and said.count("\n") == 1
