"""report.html as a reader gets it: self-contained, described, honest about simulated data."""

import html.parser
import json
import re
import shutil

import pandas as pd
import pytest

from eqpool.errors import InputError
from eqpool.report.__main__ import main
from eqpool.report.page import write_report

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
    assert len(page.images) >= 6
    for image in page.images:
        assert image["src"].startswith("data:image/png;base64,") and len(image["alt"]) > 30
    assert len({image["alt"] for image in page.images}) == len(page.images)


def test_every_figure_is_a_png_and_an_svg_too(text, workdir):
    names = set(re.findall(r'<figure id="(\w+)">', text))
    assert {"covariate_by_site", "site_probes", "latent_maps", "covariate_trend", "training_curves"} <= names
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
    assert "no more than covariates and target alone tell (0.5)" in text


def test_simulated_data_is_marked_large_and_real_data_is_not(text, workdir, monkeypatch):
    assert text.count("SIMULATED DATA") >= 3 and '<p class="simulated"' in text
    results = json.loads((workdir / "results.json").read_text())
    other = workdir.parent / "real"
    shutil.copytree(workdir, other)
    (other / "results.json").write_text(json.dumps(results | {"simulated": False, "notes": []}))
    monkeypatch.setattr("eqpool.report.page.write_figures", lambda work: [])
    assert "SIMULATED" not in write_report(other).read_text()


def test_runs_on_the_same_data_stand_in_one_table(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("eqpool.report.page.write_figures", lambda work: [])
    results = json.loads((workdir / "results.json").read_text())
    naive = tmp_path / "naive"
    shutil.copytree(workdir, naive, ignore=shutil.ignore_patterns("checkpoints", "derivatives", "images"))
    changed = results | {"method": "naive", "metrics": {"strongest_probe": 0.95, "strongest_probe_interval": None}}
    (naive / "results.json").write_text(json.dumps(changed))
    text = write_report(workdir, [naive]).read_text()
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
