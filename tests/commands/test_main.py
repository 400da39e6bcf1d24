"""The command as a user types it: exit codes, one line on stderr, nothing half-written."""

import pathlib
import re
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from absl import flags

import eqpool.commands.main  # noqa: F401, which defines the flags
from eqpool.config.recipes import find_config
from eqpool.data.volumes.grids import named_grid

REPOSITORY = pathlib.Path(__file__).parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "eqpool.main", *arguments], capture_output=True, text=True, cwd=REPOSITORY, timeout=300
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--config: expected a config file, for example --config=configs/adni.py"),
        (["--config=configs/adnii.py"], "--config=configs/adnii.py: no such file; did you mean configs/adni.py?"),
        (["--config=configs/adni.py:papr"], "configs/adni.py:papr: expected configs/adni.py or configs/adni.py:paper"),
        (["--config", "configs/adnii.py"], "--config=configs/adnii.py: no such file; did you mean configs/adni.py?"),
        (["--config=configs/adni.py", "--config.sed=3"], "--config.sed: no such key; did you mean --config.seed?"),
        (["--config=configs/adni.py", "--config.data.dateset=3"], "did you mean --config.data.dataset?"),
        (
            ["--config=configs/adni.py", "--config.weight_decay=3"],
            "stage_one.weight_decay or --config.stage_two.weight",
        ),
        (["--config=configs/adni.py", "--method", "combatt"], "did you mean 'combat'?"),
        (["--config=configs/adni.py", "--config.xyzzy=3"], "--config.xyzzy: no such key\n"),
        (["--config=configs/adni.py", "--config.seed=x"], "seed"),
        (["--config=configs/adni.py", "--config.stage_one.epochs=-1"], "config.stage_one.epochs = -1: expected"),
        (["--config=configs/adni.py", "--wokdir=x"], "wokdir"),
        (["--config=configs/adni.py", "runs/x"], "runs/x: unexpected argument"),
        (["--config=configs/german.py", "--workdir=gs://bucket/x"], "--workdir=gs://bucket/x: an address"),
        (["--config=configs/german.py", "--config.data.raw_dir=/nowhere", "--workdir={tmp}/run"], "/nowhere"),
        (["--config=configs/german.py", "--workdir=~nobody-of-this-name/x"], "no home folder is known for ~nobody"),
        (["--config=configs/adni.py", "--distributed"], "expected Cloud TPU, SLURM or Open MPI, or JAX_COORDINATOR"),
        (["--config=configs/adni.py", "--config.devices=999", "--workdir={tmp}/run"], "config.devices = 999"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_two(arguments, expected, tmp_path):
    done = command(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("eqpool: ")
    assert not list(tmp_path.rglob("results.json"))


def write_cohort(folder: pathlib.Path) -> pathlib.Path:
    """Eight small volumes of two sites in BIDS layout."""
    grid = named_grid("24x28x24")
    rows = ["participant_id\tsite\tage\tdx"]
    for number in range(8):
        name = f"sub-{number:02d}"
        path = folder / name / "anat" / f"{name}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        values = grid.mask * np.random.default_rng(number).uniform(0.5, 1, grid.shape)
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), grid.affine), path)
        rows.append(f"{name}\t{'AB'[number % 2]}\t{60 + number}\t{['AD', 'CN'][number // 2 % 2]}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder / "participants.tsv"


def edit(table: pathlib.Path, old: str, new: str) -> None:
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))


BAD_COHORTS = {
    "missing column": (lambda t: edit(t, "\tdx\n", "\tdiagnosis\n"), "dx"),
    "covariate that is not numeric": (lambda t: edit(t, "\t63\t", "\tsixty\t"), "sixty"),
    "a split without two rows": (lambda t: None, "rows in the validation split, expected at least 2"),
    "one site": (lambda t: t.write_text(t.read_text().replace("\tB\t", "\tA\t")), "site"),
    "absent image": (lambda t: (t.parent / "sub-03/anat/sub-03_T1w.nii.gz").unlink(), "sub-03"),
    "truncated image": (
        lambda t: (t.parent / "sub-03/anat/sub-03_T1w.nii.gz").write_bytes(
            (t.parent / "sub-03/anat/sub-03_T1w.nii.gz").read_bytes()[:2000]
        ),
        "sub-03_T1w.nii.gz",
    ),
}


@pytest.mark.parametrize("name", list(BAD_COHORTS))
def test_a_bad_cohort_is_one_line_and_exit_code_two(name, tmp_path):
    table = write_cohort(tmp_path / "cohort")
    spoil, expected = BAD_COHORTS[name]
    spoil(table)
    done = command(
        "--config=configs/adni.py", f"--workdir={tmp_path / 'run'}", f"--config.data.participants={table}",
        "--config.data.grid=24x28x24",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith("eqpool: ")
    assert not (tmp_path / "run" / "results.json").exists()


def test_the_help_shows_an_example_and_every_key():
    done = command("--config=configs/german.py", "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert "Example: eqpool run --config=configs/adni.py" in done.stdout
    assert "--config.name='german'" in done.stdout and "--config.stage_two.mmd_weight=" in done.stdout


def test_the_help_names_every_flag():
    own = flags.FLAGS.flags_by_module_dict()["eqpool.commands.main"]
    named = set(re.findall(r"^  --(\w+) ", command("--help").stdout, re.MULTILINE))
    assert named == {flag.name for flag in own} >= {"config", "distributed", "workdir"}


def test_shipped_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(pathlib.Path("configs/adni.py")) == REPOSITORY / "configs" / "adni.py"
    assert not find_config(pathlib.Path("configs/none.py")).exists()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "adni.py").write_text("")
    assert find_config(pathlib.Path("configs/adni.py")) == pathlib.Path("configs/adni.py")  # one's own comes first


def test_list_names_every_config_with_its_head():
    done = command("--list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(f"configs/{p.name}" for p in REPOSITORY.glob("configs/*.py"))
    assert all(len(line.split()) > 4 for line in lines)


def test_a_reader_that_goes_away_is_no_error():
    script = f"{sys.executable} -u -m eqpool.main --list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=REPOSITORY, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_dry_run_tells_the_cost_and_leaves_no_work_directory(tmp_path):
    generator = np.random.default_rng(0)
    rows = ["participant_id\tsite\tage\tdx\tx_1\tx_2"]
    for number in range(60):
        first, second = generator.normal(size=2)
        rows.append(
            f"s{number}\t{'AB'[number % 2]}\t{generator.uniform(20, 80):.1f}\t{number // 2 % 2}\t{first}\t{second}"
        )
    (tmp_path / "participants.tsv").write_text("\n".join(rows) + "\n")
    done = command(
        "--config=configs/german.py", "--dry_run", f"--workdir={tmp_path / 'runs' / 'mine'}",
        f"--config.data.participants={tmp_path / 'participants.tsv'}", "--config.data.features=x_*",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "participants: real data, 60 rows" in done.stdout
    assert "stage_one" in done.stdout and "stage_two" in done.stdout and "s a step" in done.stdout
    assert not (tmp_path / "runs" / "mine").exists()
