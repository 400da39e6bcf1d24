import dataclasses
import math
import os
import pathlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest
import tensorflow_datasets as tfds

from eqpool.config import DataConfig
from eqpool.data.load import load_cohort
from eqpool.data.preflight.findings import examine
from eqpool.data.tables.participants import read_participants
from eqpool.data.volumes import preparation
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.image_checks import BadVolumeError
from eqpool.data.volumes.image_files import read_volume
from eqpool.data.volumes.locate import find_images
from eqpool.data.volumes.parallel import in_parallel
from eqpool.data.volumes.preparation import Preparation
from eqpool.data.volumes.prepare import VOLUMES_A_SHARD, prepare_volumes
from eqpool.data.volumes.read import prepare_volume
from eqpool.data.volumes.resampling import lay_on_grid
from eqpool.errors import InputError
from eqpool.methods.run_tables import pooled_table
from eqpool.report.summary import describe_top
from eqpool.storage.files import read_json

GRID = named_grid("24x28x24")
PREPARATION = Preparation(GRID)


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.where(GRID.mask, np.random.default_rng(seed).uniform(10, 200, GRID.shape), 0)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), GRID.affine), path)
    return path


@dataclasses.dataclass(frozen=True)
class Watched(Preparation):
    """Notes the images that it is asked for, takes `seconds` for each, and is killed after `most` of them."""

    asked: list = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    most: float = math.inf

    def attempt(self, path):
        if len(self.asked) >= self.most:
            raise RuntimeError("killed")
        self.asked.append(path)
        time.sleep(self.seconds)
        return super().attempt(path)


@dataclasses.dataclass(frozen=True)
class Refused(Preparation):
    """May not read one of the images."""

    path: pathlib.Path = pathlib.Path()

    def apply(self, path):
        if path == self.path:
            raise BadVolumeError(f"{path}: not a readable image (Permission denied)", passes=True)
        return super().apply(path)


@pytest.fixture
def paths(tmp_path):
    return [save(tmp_path / f"{i}.nii.gz", i) for i in range(6)]


@pytest.fixture
def shards_of_paths(tmp_path):
    """More paths than a shard holds."""
    return [save(tmp_path / f"{i}.nii.gz", i) for i in range(2 * VOLUMES_A_SHARD)]


def test_every_volume_in_order_by_any_index(tmp_path, shards_of_paths):
    paths = shards_of_paths
    prepared = prepare_volumes(paths, PREPARATION, tmp_path / "cache", workers=3)
    inputs, expected = prepared.inputs, np.stack([prepare_volume(path, GRID)[0] for path in paths])
    count = len(paths)
    assert inputs.shape == expected.shape and inputs.dtype == np.float32 and len(inputs) == count
    assert prepared.kept.tolist() == list(range(count))
    for rows in (
        0,
        np.int64(5),
        [4, 1, 1],
        np.array([2, 3]),
        np.arange(count) % 2 == 0,
        slice(1, None, 2),
        slice(0, 0),
    ):
        np.testing.assert_array_equal(inputs[rows], expected[rows])
    np.testing.assert_array_equal(np.asarray(inputs), expected)
    np.testing.assert_array_equal(np.stack(list(inputs)), expected)
    with pytest.raises(IndexError):
        inputs[count]


def test_tensorflow_datasets_reads_the_records(tmp_path, shards_of_paths):
    paths = shards_of_paths
    prepare_volumes(paths, PREPARATION, tmp_path / "cache")
    (folder,) = (tmp_path / "cache" / "volumes").glob("*/1.0.0")
    builder = tfds.builder_from_directory(folder)
    source = builder.as_data_source(split="train")
    expected = {prepare_volume(path, GRID)[0].tobytes() for path in paths}
    assert {source[record]["volume"].tobytes() for record in range(len(paths))} == expected
    assert builder.info.splits["train"].num_shards == len(list(folder.glob("*.array_record-*"))) > 1


def test_an_interrupted_call_goes_on_and_a_change_touches_its_shard_alone(tmp_path):
    count = 6 * VOLUMES_A_SHARD
    paths, watched = [save(tmp_path / f"{number}.nii.gz", number) for number in range(count)], Watched(GRID)
    with pytest.raises(RuntimeError, match="killed"):
        prepare_volumes(paths, Watched(GRID, most=count // 2), tmp_path / "cache", workers=1)
    written = (tmp_path / "cache" / "volumes" / "shards").glob("*.json")
    done = sum(len(read_json(path)["volumes"]) for path in written)
    before = np.asarray(prepare_volumes(paths, watched, tmp_path / "cache").inputs)
    assert len(watched.asked) == count - done and done >= VOLUMES_A_SHARD

    watched.asked.clear()
    save(paths[2], 99)
    os.utime(paths[2], ns=(1, 1))
    after = np.asarray(prepare_volumes(paths, watched, tmp_path / "cache").inputs)
    assert paths[2] in watched.asked and len(watched.asked) < count / 2
    assert [row for row in range(count) if not np.array_equal(before[row], after[row])] == [2]

    watched.asked.clear()
    grown = [save(tmp_path / "0_new.nii.gz", 50), *paths]
    np.testing.assert_array_equal(prepare_volumes(grown, watched, tmp_path / "cache").inputs[1:], after)
    assert grown[0] in watched.asked and len(watched.asked) < count / 2


@pytest.mark.parametrize("align", ["none", "affine"])
def test_each_image_is_read_once_and_its_z_scores_can_be_undone(tmp_path, paths, monkeypatch, align):
    """Finer images than the grid, so that they are smoothed and resampled; the facts are read back from JSON."""
    finer = np.diag([0.5, 0.5, 0.5, 1])
    for path in paths:
        values = np.asarray(nibabel.load(path).dataobj)
        values = values.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
        nibabel.save(nibabel.Nifti1Image(values, GRID.affine @ finer), path)
    opened = []
    monkeypatch.setattr(preparation, "read_volume", lambda path: opened.append(path) or read_volume(path))
    shift = np.eye(4)
    shift[0, 3] = 2
    registering = Preparation(GRID, align=align, register=lambda image: shift)
    prepared = [prepare_volumes(paths, registering, tmp_path / "cache") for _ in range(2)][1]
    assert sorted(opened) == sorted(paths)
    for row, path in enumerate(paths):
        on_grid = lay_on_grid(read_volume(path), GRID, shift if align == "affine" else None)
        tissue = on_grid[GRID.mask & (on_grid != 0)].astype(np.float64)
        assert (prepared.tissue_mean[row], prepared.tissue_deviation[row]) == (tissue.mean(), tissue.std())
        undone = prepared.tissue_mean[row] + prepared.tissue_deviation[row] * prepared.inputs[row].astype(np.float64)
        np.testing.assert_allclose(undone[GRID.mask], on_grid[GRID.mask], rtol=1e-5, atol=1e-3)


def test_records_without_the_facts_of_today_are_prepared_again(tmp_path, paths, monkeypatch):
    watched = Watched(GRID)
    with monkeypatch.context() as earlier:
        earlier.setattr(preparation, "FACTS_VERSION", 1)
        before = prepare_volumes(paths, watched, tmp_path / "cache")
    after = prepare_volumes(paths, watched, tmp_path / "cache")
    np.testing.assert_array_equal(before.inputs, after.inputs)
    assert len(watched.asked) == 12 and len(list((tmp_path / "cache" / "volumes" / "shards").glob("*.json"))) == 2


def test_prepared_once_and_again_after_a_change(tmp_path, paths):
    watched = Watched(GRID)
    prepare_volumes(paths, watched, tmp_path / "cache")
    prepare_volumes(paths, watched, tmp_path / "cache", workers=1)
    assert len(watched.asked) == 6
    save(paths[2], 99)
    os.utime(paths[2], ns=(1, 1))
    prepare_volumes(paths, watched, tmp_path / "cache")
    assert len(watched.asked) == 12
    prepare_volumes(paths, dataclasses.replace(watched, squash=True), tmp_path / "cache")
    prepare_volumes(paths, dataclasses.replace(watched, grid=named_grid("26x30x26")), tmp_path / "cache")
    assert len(watched.asked) == 24


def test_a_change_of_the_same_size_is_seen(tmp_path):
    path = save(tmp_path / "a.nii", 1)
    before = np.array(prepare_volumes([path], PREPARATION, tmp_path / "cache").inputs)
    facts = path.stat()
    save(path, 2)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    assert path.stat().st_size == facts.st_size
    assert not np.array_equal(prepare_volumes([path], PREPARATION, tmp_path / "cache").inputs, before)


def kept_files(folder):
    """All but the locks, which are empty."""
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_two_runs_of_one_cohort_prepare_it_once(tmp_path, paths):
    watched = Watched(GRID, seconds=0.02)
    with ThreadPoolExecutor(2) as executor:  # a lock of flock's belongs to the open file, not to the process
        first, second = executor.map(lambda _: prepare_volumes(paths, watched, tmp_path / "cache", workers=1), range(2))
    assert sorted(watched.asked) == sorted(paths)
    np.testing.assert_array_equal(np.asarray(first.inputs), np.asarray(second.inputs))


def test_a_bad_volume_stops_or_is_left_out(tmp_path, paths):
    paths[3].write_bytes(paths[3].read_bytes()[:3000])
    labels = [f"participants.tsv, line {i + 2} (sub-{i})" for i in range(6)]
    with pytest.raises(BadVolumeError, match=r"participants\.tsv, line 5 \(sub-3\): .*3\.nii\.gz: .*truncated"):
        prepare_volumes(paths, PREPARATION, tmp_path / "cache", labels=labels)
    assert not kept_files(tmp_path / "cache")
    prepared = prepare_volumes(paths, PREPARATION, tmp_path / "cache", "skip", labels=labels)
    assert prepared.kept.tolist() == [0, 1, 2, 4, 5] and prepared.inputs.shape == (5, *GRID.shape)
    assert "left out: participants.tsv, line 5 (sub-3)" in prepared.notes[0]
    np.testing.assert_array_equal(prepared.inputs[3], prepare_volume(paths[4], GRID)[0])


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, paths, full_disk):
    with pytest.raises(InputError, match=r"array_record: cannot be written \(File too large\)"):
        prepare_volumes(paths, Preparation(named_grid("mni_4mm")), tmp_path / "cache")
    assert not kept_files(tmp_path / "cache")


@pytest.mark.parametrize("name", ["*.array_record-*", "dataset_info.json", "features.json"])
def test_a_damaged_record_or_description_is_one_line(tmp_path, paths, name):
    prepare_volumes(paths, PREPARATION, tmp_path / "cache")
    (path,) = (tmp_path / "cache" / "volumes").glob(f"*/1.0.0/{name}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.unlink()  # a shard is a link: what it links to stays whole
    path.write_bytes(bytes(content[: len(content) if "array" in name else len(content) // 2]))
    with pytest.raises(InputError, match=r"damaged .*; remove it"):
        np.asarray(prepare_volumes(paths, PREPARATION, tmp_path / "cache").inputs)


@pytest.mark.parametrize("facts", ['{"volumes": [1]}', '{"volumes": 3}', '{"volumes": [{"bad": null}]}', "{}", "[]"])
def test_damaged_facts_are_one_line(tmp_path, paths, facts):
    prepare_volumes(paths, PREPARATION, tmp_path / "cache")
    (path,) = (tmp_path / "cache" / "volumes" / "shards").glob("*.json")
    path.write_text(facts)
    with pytest.raises(InputError, match=path.name):
        prepare_volumes(paths, PREPARATION, tmp_path / "cache")


def test_nothing_left(tmp_path):
    with pytest.raises(InputError, match="none of 1 volumes"):
        prepare_volumes([tmp_path / "none.nii"], PREPARATION, tmp_path, "skip")


def test_results_come_in_order_and_few_are_under_way():
    started = []
    with in_parallel(
        lambda i: started.append(i) or i, iter(range(50)), workers=2, progress=False, label="", total=50
    ) as results:
        assert next(results) == 0
        assert len(started) <= 5
        assert list(results) == list(range(1, 50))


def test_workers_end_with_the_context_even_while_the_error_is_held():
    before = threading.active_count()
    with (
        pytest.raises(InputError) as held,  # its traceback holds the frames, as a report of the error would
        in_parallel(lambda i: i, range(50), workers=2, progress=False, label="", total=50) as results,
    ):
        next(results)
        raise InputError("stop")
    assert held.value and threading.active_count() == before


def own_cohort(folder, name_of=lambda i: f"sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz", extra=""):
    lines = ["participant_id\tsite\tage\tdx" + (f"\t{extra}" if extra else "")]
    for i in range(12):
        save(folder / name_of(i), i)
        last = f"\t{name_of(i)}" if extra == "path" else f"\t{i % 2}" if extra else ""
        lines.append(f"sub-{i:02d}\t{'AB'[i % 2]}\t{60 + i}\t{('x', 'y')[i // 2 % 2]}{last}")
    (folder / "participants.tsv").write_text("\n".join(lines))
    return DataConfig(participants=str(folder / "participants.tsv"), grid="24x28x24")


@pytest.mark.parametrize(
    "name_of",
    [
        lambda i: f"sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz",
        lambda i: f"sub-{i:02d}/anat/sub-{i:02d}_T1w.nii",
        lambda i: f"sub-{i:02d}/ses-1/anat/sub-{i:02d}_ses-1_T1w.nii.gz",
    ],
)
def test_bids_layouts(tmp_path, name_of):
    cohort = load_cohort(own_cohort(tmp_path / "bids", name_of), tmp_path / "cache")
    assert cohort.inputs.shape == (12, *GRID.shape) and cohort.volumes.grid is named_grid("24x28x24")
    np.testing.assert_array_equal(cohort.inputs[5], prepare_volume(tmp_path / "bids" / name_of(5), GRID)[0])


def test_path_column_and_root(tmp_path):
    config = own_cohort(tmp_path / "own", lambda i: f"images/{i}.nii.gz", "path")
    assert load_cohort(config, tmp_path / "cache").inputs.shape[0] == 12
    table = tmp_path / "own" / "participants.tsv"
    for outside in ("../secret.nii.gz", "/etc/passwd", "images/../../x.nii"):
        text = table.read_text().replace("images/7.nii.gz", outside)
        (tmp_path / "own" / "bad.tsv").write_text(text)
        with pytest.raises(InputError, match=r"line 9 \(sub-07\), column path: .* leaves"):
            load_cohort(dataclasses.replace(config, participants=str(tmp_path / "own" / "bad.tsv")), tmp_path / "cache")
    elsewhere = dataclasses.replace(config, root=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_cohort(elsewhere, tmp_path / "cache")


def test_sessions_are_told_apart(tmp_path):
    folder = tmp_path / "bids"
    config = own_cohort(folder)
    save(folder / "sub-04/ses-2/anat/sub-04_ses-2_T1w.nii.gz", 50)
    with pytest.raises(InputError, match=r"line 6 \(sub-04\): 2 images"):
        load_cohort(config, tmp_path / "cache")
    lines = ["participant_id\tsession_id\tsite\tage\tdx"]
    for i in range(12):
        for session in ("1", "ses-2"):
            label = session.removeprefix("ses-")
            save(folder / f"sub-{i:02d}/ses-{label}/anat/sub-{i:02d}_ses-{label}_T1w.nii.gz", i)
            lines.append(f"sub-{i:02d}\t{session}\t{'AB'[i % 2]}\t{60 + i}\t{('x', 'y')[i // 2 % 2]}")
    (folder / "participants.tsv").write_text("\n".join(lines))
    cohort = load_cohort(config, tmp_path / "cache")
    assert cohort.inputs.shape[0] == 24
    for name in set(cohort.participant_id):
        assert len(set(cohort.split[cohort.participant_id == name])) == 1


def test_every_volumes_overlap_is_in_the_pooled_table_and_the_worst_are_named_by_row(tmp_path):
    """Twelve people, two visits each; seven brains lie too far left, one is no image."""
    folder = tmp_path / "bids"
    config = own_cohort(folder)
    lines, expected = ["participant_id\tsession_id\tsite\tage\tdx"], []
    for i in range(12):
        for visit in ("1", "ses-2"):
            label = visit.removeprefix("ses-")
            path = save(folder / f"sub-{i:02d}/ses-{label}/anat/sub-{i:02d}_ses-{label}_T1w.nii.gz", i)
            brain = np.asarray(nibabel.load(path).dataobj)
            if label == "2" and i < 7:
                brain = np.roll(brain, -5, axis=0)
                nibabel.save(nibabel.Nifti1Image(brain, GRID.affine), path)
            covered = (brain != 0) & GRID.mask
            expected.append(2 * covered.sum() / ((brain != 0).sum() + GRID.mask.sum()))
            lines.append(f"sub-{i:02d}\t{visit}\t{'AB'[i % 2]}\t{60 + i}\t{('x', 'y')[i // 2 % 2]}")
    (folder / "participants.tsv").write_text("\n".join(lines))
    (folder / "sub-03/ses-1/anat/sub-03_ses-1_T1w.nii.gz").write_bytes(b"none")
    del expected[6]
    cohort = load_cohort(dataclasses.replace(config, on_bad_volume="skip"), tmp_path / "cache")
    table = pooled_table(cohort)
    np.testing.assert_allclose(table["mask_overlap"], expected, atol=5e-5)
    assert (table["mask_overlap"] < 0.85).sum() == 7
    (found,) = (finding for finding in examine(cohort) if finding.check == "misaligned_cohort")
    said = found.message
    assert found.severity == "warning" and found.numbers == {"volumes": 23, "below": 7, "parts_of_brains": 0}
    assert said.startswith("7 of 23 volumes overlap") and "pooled.tsv, column mask_overlap" in said
    assert f"line 3 (sub-00, ses-2) {expected[1]:.2f}, " in said and "line 11 (sub-04, ses-2) " in said
    assert said.count("participants.tsv, line") == 5 and "config.data.align = affine" in said
    assert f"WARNING: {said}" in describe_top(examine(cohort))
    left_out = "participants.tsv, line 8 (sub-03, ses-1): "
    assert any(left_out in note for note in cohort.notes)


def test_a_brain_that_alignment_left_astray_is_not_recommended_alignment(tmp_path, paths):
    astray = np.eye(4)
    astray[0, 3] = 30
    aligned, as_they_are = (
        prepare_volumes(paths, Preparation(GRID, align=align, register=lambda image: astray), tmp_path / align).findings
        for align in ("affine", "none")
    )
    said = aligned[0].message
    assert not as_they_are and "Their alignment failed" in said and "config.data.align" not in said


def test_a_row_that_is_left_out_changes_no_other_rows_name(tmp_path):
    """Two scans of everybody, told apart by nothing but their order; one lacks its age, another is no image."""
    folder, lines = tmp_path / "own", ["participant_id\tpath\tsite\tage\tdx"]
    for i in range(12):
        for scan in "ab":
            path = save(folder / "images" / f"{i}{scan}.nii.gz", i)
            age = "n/a" if (i, scan) == (0, "a") else 60 + i
            lines.append(f"sub-{i:02d}\timages/{path.name}\t{'AB'[i % 2]}\t{age}\t{('x', 'y')[i // 2 % 2]}")
    (folder / "participants.tsv").write_text("\n".join(lines))
    (folder / "images" / "1a.nii.gz").write_bytes(b"none")
    config = DataConfig(participants=str(folder / "participants.tsv"), grid="24x28x24", on_bad_volume="skip")
    cohort = load_cohort(config, tmp_path / "cache")
    assert cohort.volumes.image_root == str(folder) and len(cohort.volumes.scan_name) == 22
    for name, path in zip(cohort.volumes.scan_name, cohort.volumes.image_path, strict=True):
        number, scan = re.fullmatch(r".*/(\d+)([ab])\.nii\.gz", path).groups()
        subject = f"sub-{int(number):02d}"
        assert name == f"{subject}/anat/{subject}_run-{'ab'.index(scan) + 1}"


def test_a_missing_image_names_row_and_file(tmp_path):
    config = own_cohort(tmp_path / "bids")
    (tmp_path / "bids" / "sub-03/anat/sub-03_T1w.nii.gz").unlink()
    with pytest.raises(InputError, match=r"participants\.tsv, line 5 \(sub-03\): .*sub-03_T1w\.nii\.gz: no such image"):
        load_cohort(config, tmp_path / "cache")
    cohort = load_cohort(dataclasses.replace(config, on_bad_volume="skip"), tmp_path / "cache")
    assert "sub-03" not in cohort.participant_id and len(cohort.split) == 11 == cohort.inputs.shape[0]


def test_one_image_for_two_rows_is_refused(tmp_path):
    save(tmp_path / "a.nii.gz", 0)
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "a.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tpath\nx\ta.nii.gz\ny\tlink.nii.gz\n")
    with pytest.raises(InputError, match="line 3 .y.: its image link.nii.gz is that of line 2 too"):
        find_images(read_participants(tmp_path / "participants.tsv"), tmp_path)


def test_a_fault_that_may_pass_is_looked_at_again(tmp_path, paths):
    first = prepare_volumes(paths, Refused(GRID, path=paths[2]), tmp_path / "cache", on_bad_volume="skip")
    assert len(first.kept) == 5 and "Permission denied" in first.notes[0]
    assert len(prepare_volumes(paths, PREPARATION, tmp_path / "cache", on_bad_volume="skip").kept) == 6


def test_scans_used_at_once_are_told_apart_too(tmp_path, paths):
    """A brain cut in half covers too little of the mask, and no alignment gives it its other half."""
    image = nibabel.load(paths[1])
    half = np.asarray(image.dataobj).copy()
    half[12:] = 0
    nibabel.save(nibabel.Nifti1Image(half, image.affine), paths[1])
    said = []
    with preparation.preparing(paths, PREPARATION, [""] * 6, "stop", 1, said.append) as scans:
        assert len(list(scans)) == 6
    assert len(said) == 1 and said[0].startswith("warning: 1 of 6 volumes overlap") and "1.nii.gz 0." in said[0]
    assert "1 of them show a part of the brain" in said[0] and "affine" not in said[0]


def test_who_uses_scans_at_once_learns_which_were_left_out_and_why(paths):
    paths[1].write_bytes(b"no image")
    reasons: dict[int, str] = {}
    said: list[str] = []
    with preparation.preparing(paths, PREPARATION, ["x"] * 6, "skip", 1, said.append, reasons.__setitem__) as scans:
        assert [scan.row for scan in scans] == [0, 2, 3, 4, 5]
    assert list(reasons) == [1] and said[0] == f"left out: x: {reasons[1]}"
