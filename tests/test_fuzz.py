"""Damaged inputs of every kind: a clean result or one clear line, in little time and memory. Never a traceback."""

import gzip
import json
import pathlib
import struct

import nibabel
import numpy as np
import pytest

from eqpool.commands.preflight import main as preflight
from eqpool.config import DataConfig, RunConfig, to_dict
from eqpool.config.check import from_config_dict
from eqpool.data.load import load_cohort
from eqpool.data.tables.covariates import parse_specs
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.image_checks import BadVolumeError
from eqpool.data.volumes.preparation import Preparation
from eqpool.data.volumes.prepare import prepare_volumes
from eqpool.data.volumes.read import prepare_volume
from eqpool.errors import InputError
from eqpool.methods.facts import ModelFacts
from eqpool.storage.run_folder import RunFolder
from tests import mutations
from tests.config.test_schema import CONFIGS, load

GRID = named_grid("16x18x16")
ROUNDS = 24  # of each kind; each of them mutates many times
SOURCE = dict(mni=GRID.affine, own=np.diag([9.0, 9.0, 9.0, 1.0]))


def volume(affine: str) -> bytes:
    values = np.where(GRID.mask, np.random.default_rng(0).uniform(10, 200, GRID.shape), 0)
    return nibabel.Nifti1Image(values.astype(np.int16), SOURCE[affine] @ np.eye(4)).to_bytes()


def one_line(error: InputError) -> None:
    text = str(error)
    assert text and "\n" not in text and len(text) < 2000, text


def prepared_or_refused(path: pathlib.Path) -> bool:
    """Whether it was prepared; what is prepared is finite and has contrast."""
    try:
        with mutations.bounded():
            made, overlap = prepare_volume(path, GRID)
    except BadVolumeError as error:
        one_line(error)
        assert str(error).startswith(str(path))
        return False
    assert made.shape == GRID.shape and np.isfinite(made).all() and made.std() > 0 and 0 <= overlap <= 1
    return True


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volumes(tmp_path, suffix, seed):
    """768 files: headers and payloads, compressed after or before the damage."""
    random = np.random.default_rng((seed, len(suffix)))
    content = volume("mni")
    for number in range(16):
        mutate = mutations.nifti_header if number % 2 else mutations.any_bytes
        if suffix == ".nii.gz" and number % 4 == 0:
            damaged = mutate(gzip.compress(content, 1, mtime=0), random)  # the stream itself
        else:
            damaged = mutate(content, random)
            damaged = gzip.compress(damaged, 1, mtime=0) if suffix == ".nii.gz" else damaged
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(damaged)
        prepared_or_refused(path)


ENDINGS = (".nii", ".nii.gz", ".NII", ".hdr", ".img", ".mgz", ".mgh", ".nii.bz2", ".nii.part", ".nii~", "")
ENDINGS += (".nii", ".nii.gz", ".gii", ".mnc", ".HEAD", ".BRIK", ".PAR", ".REC", ".v", ".trk", ".nii.zst", ".json")


def holes(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """NaN or infinity around the head, in it, or both, in any share."""
    outside = random.choice([0, np.nan, np.inf, -np.inf], p=[0.3, 0.5, 0.1, 0.1])
    made = np.where(GRID.mask, values, outside)
    made[random.random(GRID.shape) < random.choice([0, 1e-4, 1e-2, 0.5])] = random.choice([np.nan, np.inf, -1e300, 0])
    return made


@pytest.mark.parametrize("seed", range(6))
def test_names_units_forms_and_missing_values(tmp_path, seed):
    """240 files: any content under any name, in any unit, with two orientations, with NaN and infinite voxels."""
    random = np.random.default_rng((seed, 20))
    read = 0
    for number in range(40):
        image = nibabel.Nifti1Image(holes(random.uniform(10, 200, GRID.shape), random), GRID.affine)
        affine = GRID.affine @ np.diag([*random.choice([1, -1, 1e-3, 1e3, 0.5], 1).repeat(3), 1])
        image.set_sform(affine if random.random() < 0.5 else GRID.affine, int(random.integers(0, 5)))
        image.set_qform(GRID.affine, int(random.integers(0, 5)))
        image.header.set_xyzt_units(random.choice(["unknown", "meter", "mm", "micron"]))
        content = image.to_bytes()
        content = gzip.compress(content, 1) if random.random() < 0.5 else content
        content = gzip.compress(content, 1) if random.random() < 0.1 else content
        content = mutations.nifti_header(content, random) if random.random() < 0.3 else content
        path = tmp_path / f"{number}{random.choice(ENDINGS)}"
        path.write_bytes(content)
        read += prepared_or_refused(path)
    assert read > 0


def test_every_flipped_bit_of_a_gz_stream_is_noticed_or_changes_nothing(tmp_path):
    """gzip's checksum stands at the end, where a reader that has its voxels never comes."""
    content = gzip.compress(volume("mni"), 6, mtime=0)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    whole, _ = prepare_volume(path, GRID)
    refused, random = 0, np.random.default_rng(0)
    for at in random.integers(10, len(content), 40).tolist():
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            np.testing.assert_array_equal(prepare_volume(path, GRID)[0], whole)
        except BadVolumeError:
            refused += 1
    assert refused >= 38


def with_fields(content: bytes, **fields: tuple[int, str, tuple]) -> bytes:
    data = bytearray(content)
    for offset, form, values in fields.values():
        struct.pack_into(form, data, offset, *values)
    return bytes(data)


PETABYTE = {"dim": (40, "<8h", (3, 32767, 32767, 32767, 1, 1, 1, 1)), "type": (70, "<2h", (64, 64))}
HUGE = {
    "a petabyte": (PETABYTE, "expected sides of 2 to 2048 voxels"),
    "a billion voxels": ({"dim": (40, "<8h", (3, 1000, 1000, 1000, 1, 1, 1, 1))}, "expected sides of 2 to"),
    "half a gigabyte": ({"dim": (40, "<8h", (3, 512, 512, 512, 1, 1, 1, 1)), "type": (70, "<2h", (16, 32))}, "claim"),
    "voxels far off": ({"offset": (108, "<f", (1e15,))}, "bytes|read|start"),
    "voxels nowhere": ({"offset": (108, "<f", (float("nan"),))}, "readable|read"),
    "negative sides": ({"dim": (40, "<8h", (3, -5, 16, 16, 1, 1, 1, 1))}, "shape|readable|sides"),
    "a huge extension": ({"flag": (348, "<4b", (1, 0, 0, 0)), "offset": (108, "<f", (2**30,))}, "readable|start|read"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", list(HUGE))
def test_what_claims_to_be_huge_is_refused_before_anything_is_allocated(tmp_path, name, suffix):
    fields, expected = HUGE[name]
    content = with_fields(volume("mni"), **fields)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(BadVolumeError, match=expected), mutations.bounded(mebibytes=40):
        prepare_volume(path, GRID)


def test_a_bomb_is_refused(tmp_path):
    """Half a gigabyte of zeros, 512 x 512 x 512 floats, in half a megabyte; and an image that goes on and on."""
    honest = with_fields(volume("mni")[:352], **HUGE["half a gigabyte"][0])
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(honest)
        for _ in range(512):
            file.write(bytes(2**20))
    with pytest.raises(BadVolumeError, match="claim to hold"), mutations.bounded(mebibytes=40):
        prepare_volume(path, GRID)
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(volume("mni"))
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(BadVolumeError, match="goes on for"), mutations.bounded():
        prepare_volume(path, GRID)


def participants(folder: pathlib.Path, images: bool) -> bytes:
    generator = np.random.default_rng(0)
    rows = ["participant_id\tsite\tage\tsex\tdx\tx_1\tx_2" + ("\tpath" if images else "")]
    for number in range(24):
        cells = [f"sub-{number:02d}", "AB"[number % 2], f"{generator.uniform(20, 80):.1f}", "FM"[number // 4 % 2]]
        cells += [str(number // 2 % 2), *(f"{value:.3f}" for value in generator.normal(size=2))]
        rows.append("\t".join(cells) + (f"\timages/{number}.nii.gz" if images else ""))
    return ("\n".join(rows) + "\n").encode()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_participants_tables(tmp_path, seed, capsys):
    """360 tables through the run's own door, and through the pre-flight check's."""
    random = np.random.default_rng(seed)
    path = tmp_path / "participants.tsv"
    for number in range(15):
        path.write_bytes(mutations.table(participants(tmp_path, images=number % 3 == 0), random))
        config = DataConfig(
            participants=str(path),
            covariates="age,sex:categorical" if number % 2 else "age",
            features="" if number % 3 == 0 else "x_*",
            grid="16x18x16",
            on_bad_volume="skip",
        )
        try:
            with mutations.bounded():
                cohort = load_cohort(config, tmp_path / "cache", progress=False)
            assert np.isfinite(cohort.inputs).all() and np.isfinite(cohort.covariates).all()
        except InputError as error:
            one_line(error)
        assert preflight([f"--participants={path}", "--target=dx", "--features=x_*"]) in (0, 2)
        assert capsys.readouterr().err.count("\n") <= 1


ESCAPES = ("../secret.nii.gz", "/etc/passwd", "images/../../secret.nii.gz", "./../secret.nii.gz", "images/\x00/../../x")


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_table_leads_out_of_its_root(tmp_path, escape):
    inside = tmp_path / "cohort"
    (inside / "images").mkdir(parents=True)
    (tmp_path / "secret.nii.gz").write_bytes(gzip.compress(volume("mni")))
    table = participants(inside, images=True).decode().replace("images/0.nii.gz", escape)
    (inside / "participants.tsv").write_text(table)
    config = DataConfig(participants=str(inside / "participants.tsv"), grid="16x18x16")
    with pytest.raises(InputError) as told:
        load_cohort(config, tmp_path / "cache", progress=False)
    one_line(told.value)
    assert "leaves" in str(told.value) or "no such image" in str(told.value)


def test_a_table_may_lead_out_of_its_root_where_the_config_allows_it(tmp_path):
    inside = tmp_path / "cohort"
    inside.mkdir()
    (tmp_path / "images").mkdir()
    for number in range(24):
        (tmp_path / "images" / f"{number}.nii.gz").write_bytes(gzip.compress(volume("mni")))
    table = participants(inside, images=True).decode().replace("\timages/", "\t../images/")
    rows = [row + ("\tsession_id" if not number else f"\t{number}") for number, row in enumerate(table.splitlines())]
    (inside / "participants.tsv").write_text("\n".join(rows))
    config = DataConfig(participants=str(inside / "participants.tsv"), grid="16x18x16", outside_root="allow")
    assert load_cohort(config, tmp_path / "cache", progress=False).inputs.shape == (24, 16, 18, 16)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_records_of_a_work_directory(tmp_path, seed, trained_table):
    """384 damaged config.json, model.json and facts on prepared volumes: trees and bytes."""
    random = np.random.default_rng(seed)
    cache = tmp_path / "cache"
    (tmp_path / "0.nii").write_bytes(volume("mni"))
    prepare_volumes([tmp_path / "0.nii"], Preparation(GRID), cache, progress=False)
    (facts,) = (cache / "volumes" / "shards").glob("*.json")
    readers = {
        "config.json": lambda: RunFolder(tmp_path).read_config(),
        "claimed": lambda: RunFolder(tmp_path).claim(RunConfig()),
        "model.json": lambda: ModelFacts.read(RunFolder(tmp_path)),
        "facts": lambda: prepare_volumes([tmp_path / "0.nii"], Preparation(GRID), cache, progress=False),
    }
    for number in range(16):
        name = list(readers)[number % 4]
        path = facts if name == "facts" else tmp_path / name.replace("claimed", "config.json")
        whole = facts.read_bytes() if name == "facts" else trained_table[path.name]
        if number % 3:
            damaged = json.dumps(mutations.json_tree(json.loads(whole), random)).encode()
        else:
            damaged = mutations.any_bytes(whole, random)
        path.write_bytes(damaged)
        try:
            with mutations.bounded():
                readers[name]()
        except InputError as error:
            one_line(error)
        if name == "facts":
            path.write_bytes(whole)


@pytest.fixture(scope="module")
def trained_table() -> dict[str, bytes]:
    """config.json and model.json as a run on a table writes them."""
    scaling = {"covariate_minimum": [20.0], "covariate_maximum": [80.0], "target_mean": 0.0, "target_deviation": 1.0}
    columns = [{"name": "x", "mean": 0.0, "deviation": 1.0}, {"name": "y", "categories": ["a", "b"]}]
    model = {
        "dataset": "participants", "simulated": False, "input_shape": [3], "site_names": ["A", "B"],
        "covariate_names": ["age"], "target_name": "dx", "target_classes": ["0", "1"], "scaling": scaling,
        "features": {"columns": columns},
    }  # fmt: skip
    config = to_dict(RunConfig(data=DataConfig(participants="participants.tsv")))
    return {"config.json": json.dumps(config).encode(), "model.json": json.dumps(model).encode()}


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_values(path):
    """A dozen overrides of every shipped config: a frozen config, or one line that names the key."""
    random = np.random.default_rng(len(path.stem))
    for _ in range(12):
        tree = load(path)
        key, value = list(tree)[int(random.integers(len(tree)))], None
        values = [*mutations.VALUES, "nan", float("nan"), float("inf"), "a,b", "expm", (1, 2), -(10**20)]
        value = values[int(random.integers(len(values)))]
        with tree.ignore_type(), tree.unlocked():
            if hasattr(tree[key], "keys"):
                inner = list(tree[key])[int(random.integers(len(tree[key])))]
                tree[key][inner], key = value, f"{key}.{inner}"
            else:
                tree[key] = value
        try:
            from_config_dict(tree)
        except InputError as error:
            one_line(error)


@pytest.mark.parametrize("text", ["age:", ":", "age:categorical:continuous", ",,,", "a:b:c", "\u00e9:categorical"])
def test_covariates_as_typed(text):
    try:
        parse_specs(text)
    except InputError as error:
        one_line(error)


def test_a_name_that_no_file_can_have_is_one_line(tmp_path):
    table = participants(tmp_path, images=True).decode().replace("images/0.nii.gz", "images/\x000.nii.gz")
    (tmp_path / "participants.tsv").write_text(table)
    config = DataConfig(participants=str(tmp_path / "participants.tsv"), grid="16x18x16")
    with pytest.raises(InputError) as told:
        load_cohort(config, tmp_path / "cache", progress=False)
    one_line(told.value)
