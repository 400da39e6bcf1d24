"""The example runs as it stands, with fewer people and epochs, and ends in a picture."""

import pathlib

import matplotlib.image

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "pool_a_table.py"


def test_the_example_ends_in_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = EXAMPLE.read_text()
    quick = code.replace("PEOPLE, EPOCHS = 600, 60", "PEOPLE, EPOCHS = 160, 3")
    assert quick != code
    names: dict = {}
    exec(compile(quick, EXAMPLE.name, "exec"), names)
    told = {name: score[0] for name, score in names["scores"].items()}
    assert told["harmonised"] < told["raw"] - 0.2  # calibration alone, of so few epochs, does this much
    assert "SIMULATED" in capsys.readouterr().out
    picture = matplotlib.image.imread(tmp_path / "pool_a_table.png")
    assert picture.shape[:2] == (630, 1350) and picture.std() > 0.05


def test_every_cell_is_marked():
    lines = EXAMPLE.read_text().splitlines()
    assert lines[0] == "# %% [markdown]" and sum(line == "# %%" for line in lines) >= 5
