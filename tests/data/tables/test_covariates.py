import numpy as np
import pytest

from eqpool.data.load import load_cohort
from eqpool.data.tables.covariates import (
    ColumnSpec,
    parse_specs,
    read_covariates,
    read_covariates_of,
    read_nuisances,
)
from eqpool.data.tables.participants import read_participants
from eqpool.errors import InputError
from tests.data.tables.test_participants import HEADER, config, rows, write


def table(folder, ages=("20.5", "89+", "n/a"), sexes=("F", "M", "n/a"), name="participants.tsv"):
    separator = "," if name.endswith(".csv") else "\t"
    lines = [["participant_id", "age", "sex"]] + [[f"s{i}", *v] for i, v in enumerate(zip(ages, sexes, strict=True))]
    path = folder / name
    path.write_text("\n".join(separator.join(line) for line in lines) + "\n")
    return read_participants(path)


def test_specs():
    assert parse_specs("age, sex:categorical") == (ColumnSpec("age", False), ColumnSpec("sex", True))
    assert parse_specs("age:continuous") == (ColumnSpec("age", False),)
    with pytest.raises(InputError, match='"sex:category", expected sex, sex:continuous or sex:categorical'):
        parse_specs("sex:category")


def test_names_with_a_comma_or_a_colon_stand_in_quotes():
    specs = parse_specs('"age, years", "ratio:left" ,"scan: type":categorical,"a ""b""":continuous')
    assert [spec.name for spec in specs] == ["age, years", "ratio:left", "scan: type", 'a "b"']
    assert [spec.categorical for spec in specs] == [False, False, True, False]
    for text in ('"age:x', '"sex":category', '"sex"categorical'):
        with pytest.raises(InputError, match="not closed|stands in double quotes"):
            parse_specs(text)


def test_a_cohort_whose_columns_need_quotes(tmp_path):
    names = ["participant_id", "site", "age, years", "scan: type", "dx", "left, mm", "right: mm"]
    lines = [
        [f"s{i}", "AB"[i % 2], str(50 + i), "xy"[i // 2 % 2], ("ill", "well")[i // 4 % 2], f"{i / 7:.2f}", f"{i * i}"]
        for i in range(40)
    ]
    path = tmp_path / "participants.tsv"
    path.write_text("\n".join("\t".join(line) for line in [names, *lines]) + "\n")
    given = config(path, covariates='"age, years"', nuisances='"scan: type"', features='"left, mm",right: mm')
    cohort = load_cohort(given, tmp_path)
    assert cohort.covariate_names == ("age, years",) and cohort.nuisance_names == ("scan: type",)
    assert cohort.table.input_names == ("left, mm", "right: mm")
    by_type = config(path, covariates='"age, years","scan: type":categorical', features='"left*"', site_column="site")
    assert load_cohort(by_type, tmp_path).covariate_names == ("age, years", "scan: type=y")
    assert load_cohort(by_type, tmp_path).table.input_names == ("left, mm",)


def test_one_number_is_one_label_in_a_table(tmp_path):
    """Sites and classes written as 0, 0.0, 1 and 1.0, and a site called NA."""
    lines = [line.split("\t") for line in rows(40)]
    for index, line in enumerate(lines):
        line[1] = ("0", "0.0", "1", " 1.0 ")[index % 4] if index < 36 else "NA"
        line[3] = ("1", "2.0", "1.0", "2")[index // 4 % 4]
    cohort = load_cohort(config(write(tmp_path, ["\t".join(line) for line in lines])), tmp_path)
    assert cohort.site_names == ("0", "1") and cohort.target_classes == ("1", "2")
    np.testing.assert_array_equal(cohort.site[:36], np.arange(36) // 2 % 2)
    assert (cohort.site[36:] == -1).all()
    notes = " | ".join(cohort.notes)
    assert "site: '0' and '0.0' are read as one label, 0" in notes and "dx: '1' and '1.0' are read as one" in notes
    assert 'site: "NA" (4) read as missing; a level of that name needs another one' in notes


@pytest.mark.parametrize("name", ["participants.tsv", "participants.csv"])
def test_capped_ages_and_categories(tmp_path, name):
    values, names, first_levels, notes = read_covariates(table(tmp_path, name=name), parse_specs("age,sex:categorical"))
    assert names == ("age", "sex=M") and first_levels == {"sex": "F"}
    np.testing.assert_array_equal(values, [[20.5, 0], [89, 1], [np.nan, np.nan]])
    assert notes == ("1 values of age such as 89+ are read as the number before the plus",)


def test_three_levels_are_two_columns(tmp_path):
    read = read_covariates(table(tmp_path, sexes=("1.5T", "3T", "7T")), parse_specs("sex:categorical"))
    values, names, first_levels, _ = read
    assert names == ("sex=3T", "sex=7T") and first_levels == {"sex": "1.5T"}
    np.testing.assert_array_equal(values, [[0, 0], [1, 0], [0, 1]])


def test_text_in_a_continuous_covariate_says_how_to_declare_it(tmp_path):
    with pytest.raises(InputError, match=r"column sex: \"F\", expected a number or n/a; write sex:categorical"):
        read_covariates(table(tmp_path), parse_specs("sex"))


def test_a_wrong_number_is_not_advised_to_be_a_category(tmp_path):
    for ages in (("20,5", "30,5", "41,5"), ("20.5", "3O", "41.5")):
        with pytest.raises(InputError, match=r"column age: \".*\", expected a number or n/a$"):
            read_covariates(table(tmp_path, ages=ages), parse_specs("age"))


def test_a_single_category_is_an_error(tmp_path):
    with pytest.raises(InputError, match="column sex: 1 categories, expected at least two"):
        read_covariates(table(tmp_path, sexes="FFF"), parse_specs("sex:categorical"))


def test_nuisances(tmp_path):
    index, levels = read_nuisances(table(tmp_path), ("sex",))
    np.testing.assert_array_equal(index, [[0], [1], [-1]])
    assert levels == (("F", "M"),)


def test_a_cohort_with_all_of_them(tmp_path):
    lines = [f"{line}\t{'FM'[i % 3 % 2]}\t{(1.5, 3)[i // 4 % 2]}" for i, line in enumerate(rows())]
    path = write(tmp_path, lines, header=f"{HEADER}\tsex\tfield")
    cohort = load_cohort(config(path, covariates="age,sex:categorical", nuisances="field", features="*"), tmp_path)
    assert cohort.covariate_names == ("age", "sex=M") and cohort.covariates.shape == (24, 2)
    assert cohort.nuisance_levels == (("1.5", "3"),) and cohort.nuisance.shape == (24, 1)
    assert cohort.table.input_names == ("thickness", "volume")  # what a column is used for, it is no feature beside


@pytest.mark.parametrize("place", ["{}/abide1/participants.tsv", "{}/participants.tsv"])
def test_a_named_cohort_is_found_in_raw_dir(tmp_path, place):
    path = tmp_path / place.format("raw")
    path.parent.mkdir(parents=True)
    write(path.parent, rows())
    given = config("", dataset="abide1", raw_dir=str(tmp_path / "raw"))
    cohort = load_cohort(given, tmp_path)
    assert cohort.name == "abide1" and len(cohort.site) == 24
    with pytest.raises(InputError, match="no participants.tsv of abide1 there, which cannot be downloaded"):
        load_cohort(config("", dataset="abide1", raw_dir=str(tmp_path / "elsewhere")), tmp_path)


def test_covariates_of_a_run_have_its_columns(tmp_path):
    specs = parse_specs("age,sex:categorical")
    given = table(tmp_path, ages=("20", "89+", "40"), sexes=("X", "M", "X"))
    found = read_covariates_of(given, specs, ("age", "sex=M", "sex=W"), {})
    np.testing.assert_array_equal(found, [[20, 0, 0], [89, 1, 0], [40, 0, 0]])  # X may be the run's reference
    for sexes, message in (
        (("X", "M", "Y"), r"line 4 \(s2\), column sex: Y, expected one of X, M$"),
        (("X", "M", "n/a"), r"line 4 \(s2\), column sex: missing, expected a value in every row"),
    ):
        with pytest.raises(InputError, match=message):
            read_covariates_of(table(tmp_path, ages=("20", "30", "40"), sexes=sexes), specs, ("age", "sex=M"), {})
