import dataclasses

import numpy as np
import pytest

from eqpool.config import DataConfig
from eqpool.data.load import load_cohort
from eqpool.data.tables.coding import read_labels
from eqpool.data.tables.levels import code_labels
from eqpool.data.tables.participants import read_participants, select_features
from eqpool.errors import InputError
from eqpool.methods.run_tables import pooled_table

HEADER = "participant_id\tsite\tage\tdx\tthickness\tvolume"


def rows(count=24):
    return [
        f"sub-{i:02d}\t{'AB'[i % 2]}\t{50 + i}\t{('ill', 'well')[i // 2 % 2]}\t{2 + i / 10}\t{100 + i}"
        for i in range(count)
    ]


def write(folder, lines, header=HEADER, name="participants.tsv", encoding="utf-8"):
    path = folder / name
    path.write_bytes("\n".join([header, *lines]).encode(encoding) + b"\n")
    return path


def config(path, **changes):
    base = DataConfig(participants=str(path), features="thickness,vol*")
    return dataclasses.replace(base, **changes)


def change(line, column, value, count=24):
    changed = rows(count)
    fields = changed[line].split("\t")
    fields[HEADER.split("\t").index(column)] = value
    changed[line] = "\t".join(fields)
    return changed


def replace_all(column, value):
    return [change(i, column, value)[i] for i in range(24)]


def test_a_sound_table(tmp_path):
    cohort = load_cohort(config(write(tmp_path, rows())), tmp_path / "cache")
    assert cohort.inputs.shape == (24, 2) and cohort.inputs.dtype == np.float32
    assert cohort.table.input_names == ("thickness", "volume")
    assert cohort.site_names == ("A", "B") and cohort.target_classes == ("ill", "well")
    assert cohort.covariates.shape == (24, 1) and cohort.covariates[3, 0] == 53
    train = cohort.rows("train")
    np.testing.assert_allclose(cohort.inputs[train].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(cohort.inputs[train].std(axis=0), 1, atol=1e-6)
    assert not cohort.simulated and cohort.volumes is None


def test_order_of_rows_does_not_change_a_participants_split(tmp_path):
    first = load_cohort(config(write(tmp_path, rows())), tmp_path)
    second = load_cohort(config(write(tmp_path, rows()[::-1])), tmp_path)
    splits = [dict(zip(c.participant_id.tolist(), c.split.tolist(), strict=True)) for c in (first, second)]
    assert splits[0] == splits[1]


@pytest.mark.parametrize(
    ("lines", "changes", "expected"),
    [
        (rows(), {"site_column": "cite"}, ["line 1", "no column cite", "did you mean site?"]),
        (rows(), {"covariates": "years"}, ["line 1", "no column years", "found participant_id"]),
        (rows(), {"target": "dxx"}, ["no column dxx", "did you mean dx?"]),
        (rows(), {"features": "thickness,nothing*"}, ['"nothing*"']),
        (rows(), {"features": "thicknes"}, ["no column thicknes", "did you mean thickness?"]),
        (rows(), {"features": "thickness,site"}, ["config.data.features", "site"]),
        (rows(), {"covariates": ""}, ["config.data.covariates"]),
        (rows(), {"covariates": "site"}, ["site_column, covariates, target and nuisances"]),
        ([], {}, ["no rows"]),
        (change(4, "age", "old"), {}, ["line 6 (sub-04), column age", '"old"', "expected a number"]),
        (change(4, "age", "inf"), {}, ["line 6 (sub-04), column age", '"inf"']),
        (change(4, "age", "1_0"), {}, ["line 6 (sub-04), column age", '"1_0"']),
        (change(5, "thickness", "2,5"), {}, ["line 7 (sub-05), column thickness", '"2,5"']),
        (change(3, "participant_id", "n/a"), {}, ["line 5, column participant_id", "missing"]),
        (change(3, "participant_id", "../x"), {}, ["line 5", "../x", "slashes"]),
        (change(3, "participant_id", "sub-00"), {}, ["line 5 (sub-00)", "line 2", "one row a scan"]),
        ([*rows(), rows()[0]], {}, ["line 26 (sub-00)", "line 2"]),
        ([*rows(), "sub-99\tA"], {}, ["line 26 (sub-99)", "2 fields, expected 6"]),
        (replace_all("site", "A"), {}, ["column site", "1 site (A)", "at least two"]),
        (replace_all("site", "n/a"), {}, ["column site", "none"]),
        (replace_all("age", "70"), {}, ["column age", "constant (70)"]),
        (replace_all("age", "n/a"), {}, ["column age", "every row lacks"]),
        (replace_all("dx", "ill"), {}, ["column dx", 'single class ("ill")']),
        (replace_all("dx", "n/a"), {}, ["column dx", "every value is missing"]),
        (replace_all("dx", "1"), {"target_type": "number"}, ["column dx", "varies"]),
        (rows(), {"target_type": "number"}, ["line 2 (sub-00), column dx", '"ill"']),
    ],
)
def test_bad_tables_are_told_in_one_line(tmp_path, lines, changes, expected):
    path = write(tmp_path, lines)
    with pytest.raises(InputError) as caught:
        load_cohort(config(path, **changes), tmp_path / "cache")
    message = str(caught.value)
    assert "\n" not in message
    for part in expected:
        assert part in message
    assert "config.data" in message or str(path) in message


def with_splits(splits, names=None):
    lines = [f"{line}\t{split}" for line, split in zip(rows(), splits, strict=True)]
    return lines if names is None else [line.replace(old, new) for line in lines for old, new in [names]]


def test_labels_do_not_enter_splits_that_are_balanced_by_site_alone(tmp_path):
    """As an ISTN needs it: which images of the reference it sees must not depend on their labels."""

    def split(balance: str, labels: list[str]) -> list[str]:
        lines = [line.split("\t") for line in rows()]
        column = HEADER.split("\t").index("dx")
        text = [
            "\t".join([*fields[:column], label, *fields[column + 1 :]])
            for fields, label in zip(lines, labels, strict=True)
        ]
        read = dataclasses.replace(config(write(tmp_path, text)), balance=balance)
        return load_cohort(read, tmp_path).split.tolist()

    as_given = [line.split("\t")[HEADER.split("\t").index("dx")] for line in rows()]
    turned = as_given[5:] + as_given[:5]
    assert split("site", as_given) == split("site", turned)
    assert split("site_and_target", as_given) != split("site_and_target", turned)


def test_a_given_split_is_used_and_checked(tmp_path):
    header = HEADER + "\tsplit"
    good = ["train"] * 16 + ["validation"] * 4 + ["test"] * 4
    cohort = load_cohort(config(write(tmp_path, with_splits(good), header)), tmp_path)
    assert cohort.split.tolist() == good
    bad = {
        "dev": (with_splits(["dev", *good[1:]]), ["line 2 (sub-00), column split", '"dev"', "train, validation, test"]),
        "n/a": (with_splits(["n/a", *good[1:]]), ["line 2 (sub-00)", '"n/a"']),
        "site": (
            with_splits(good)[:-1] + ["sub-23\tC\t60\till\t2\t3\ttest"],
            ['unknown site label "C" at test time (sub-23)', "column site"],
        ),
        "class": (
            with_splits(good)[:-1] + ["sub-23\tA\t60\tother\t2\t3\ttest"],
            ['no training row of class "other"', "column dx"],
        ),
    }
    for lines, expected in bad.values():
        with pytest.raises(InputError) as caught:
            load_cohort(config(write(tmp_path, lines, header)), tmp_path)
        assert all(part in str(caught.value) for part in expected), str(caught.value)


def test_a_participant_in_two_splits_is_refused(tmp_path):
    lines = [f"{line}\t{split}\t1" for line, split in zip(rows(), ["train"] * 20 + ["test"] * 4, strict=True)]
    lines.append("sub-00\tA\t51\till\t2\t3\ttest\t2")
    with pytest.raises(InputError, match="line 26 .sub-00, ses-2., column split: test, but another scan"):
        load_cohort(config(write(tmp_path, lines, HEADER + "\tsplit\tsession_id")), tmp_path)


def test_what_is_missing_is_left_out_or_marked_and_noted(tmp_path):
    lines = change(0, "age", "n/a")
    lines[1] = lines[1].replace("\tB\t", "\tn/a\t")
    lines[2] = lines[2].replace("well", "n/a")
    lines[3] = lines[3].replace("\t103", "\tn/a")
    cohort = load_cohort(config(write(tmp_path, lines)), tmp_path)
    assert len(cohort.split) == 23 and "sub-00" not in cohort.participant_id
    assert cohort.site[0] == -1 and cohort.target[1] == -1
    assert cohort.inputs[2, 1] == 0
    notes = " ".join(cohort.notes)
    for part in ("left out 1 of 24 rows without age", "1 rows without site", "1 rows without dx", "1 missing feature"):
        assert part in notes


def test_numeric_targets(tmp_path):
    path = write(tmp_path, rows())
    number = load_cohort(config(path, target="volume", features="thickness"), tmp_path)
    assert number.target_classes == () and number.target.dtype == np.float32 and number.target[0] == 100
    few = load_cohort(config(write(tmp_path, [r.replace("ill", "10").replace("well", "9") for r in rows()])), tmp_path)
    assert few.target_classes == ("9", "10") and few.target.dtype == np.int32
    missing = change(0, "volume", "n/a")
    cohort = load_cohort(config(write(tmp_path, missing), target="volume", features="thickness"), tmp_path)
    assert np.isnan(cohort.target[0])


def test_csv_byte_order_mark_blank_lines_and_quotes(tmp_path):
    lines = [line.replace("\t", ",") for line in rows()]
    lines[3] = lines[3].replace("sub-03", '"sub-03"')
    path = write(tmp_path, ["", *lines, "", ""], HEADER.replace("\t", ","), "people.csv", encoding="utf-8-sig")
    table = read_participants(path)
    assert len(table.frame) == 24 and table.frame["participant_id"][3] == "sub-03" and table.line[0] == 3


@pytest.mark.parametrize("content", [b"", b"\n\n", "participant_id\tsite\nsub-\xe9\tA\n".encode("latin-1")])
def test_files_that_are_no_tables(tmp_path, content):
    path = tmp_path / "participants.tsv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="participants.tsv"):
        read_participants(path)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="none.tsv: no such file"):
        read_participants(tmp_path / "none.tsv")


def test_patterns_pass_over_site_covariate_and_target(tmp_path):
    table = read_participants(write(tmp_path, rows()))
    frame = select_features(table, ("volume", "*"), ("site", "age", "dx"))
    assert list(frame.columns) == ["volume", "thickness"]


def test_class_names_that_are_numbers_sort_as_numbers():
    index, names = code_labels(read_labels(["10", "9", "", "10"], lambda row: f"row {row}"))
    assert names == ("9", "10") and index.tolist() == [1, 0, -1, 1]


def test_feature_encoding_is_that_of_the_cohort(tmp_path):
    path = write(tmp_path, rows())
    cohort = load_cohort(config(path), tmp_path)
    frame = select_features(read_participants(path), ("thickness", "vol*"), ("site", "age", "dx"))
    np.testing.assert_array_equal(cohort.table.encoding.apply(frame), cohort.inputs)


@pytest.mark.parametrize(
    ("name", "target", "features", "sites", "count"),
    [
        ("abide1", "dx", "*_thickness", 20, 1035),
        ("fcon1000", "sex", "*", 19, 900),
        ("ixi_thickness", "sex", "lh_*", 2, 491),
    ],
)
def test_real_tables(shared_data, tmp_path, name, target, features, sites, count):
    path = shared_data / "cohorts" / name / "participants.tsv"
    cohort = load_cohort(config(path, target=target, features=features), tmp_path)
    assert len(cohort.site_names) == sites and len(cohort.split) == count
    assert np.isfinite(cohort.inputs).all()
    for split, fraction in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert abs(len(cohort.rows(split)) / count - fraction) < 0.01
    assert set(cohort.site[cohort.rows("train")]) == set(range(sites))


def test_described_columns_are_read_and_are_no_features(tmp_path):
    path = write(tmp_path, change(3, "volume", "n/a"))
    cohort = load_cohort(config(path, features="thick*,*", described="volume"), tmp_path)
    assert cohort.table.input_names == ("thickness",) and cohort.described_names == ("volume",)
    assert np.isnan(cohort.described[3, 0]) and cohort.described[4, 0] == 104
    table = pooled_table(cohort)
    assert list(table.columns) == ["participant_id", "split", "site", "age", "dx", "volume"]
    assert table["dx"].tolist() == [row.split("\t")[3] for row in rows()]
    assert table["age"].tolist() == list(range(50, 74)) and len(table) == 24
    wrong = (("mass", r"no column mass \(config.data.described\)"), ("dx", 'column dx: "ill", expected a number'))
    for columns, problem in wrong:
        with pytest.raises(InputError, match=problem):
            load_cohort(config(path, features="thickness", described=columns), tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('sub-24\tA\t60\till\t2\t"moved a lot', "line 3: .*is a quote not closed"),
        ('sub-24\tA\t60\till\t2\t"3"x', "line 3: .*is a quote not closed"),
    ],
)
def test_a_stray_quote_swallows_no_rows(tmp_path, line, expected):
    lines = rows()
    with pytest.raises(InputError, match=expected):
        read_participants(write(tmp_path, [lines[0], line, *lines[1:]]))
    closed_later = [lines[0], line.replace("x", ""), *lines[1:6], lines[6] + '"', *lines[7:]]
    if '"moved' in line:
        with pytest.raises(InputError, match="line 3: a field of several lines"):
            read_participants(write(tmp_path, closed_later))


def test_quoted_fields_of_r_and_pandas_are_read(tmp_path):
    quoted = ["\t".join(f'"{field}"' for field in line.split("\t")) for line in rows()]
    header = "\t".join(f'"{name}"' for name in HEADER.split("\t"))
    plain = read_participants(write(tmp_path, rows())).frame
    assert read_participants(write(tmp_path, quoted, header, "quoted.tsv")).frame.equals(plain)


def test_one_participant_has_one_name(tmp_path):
    with pytest.raises(InputError, match="column participant_id: 00 beside sub-00, expected one name"):
        read_participants(write(tmp_path, change(2, "participant_id", "00")))
