"""Removes the scanners' effects from the columns of a table, and keeps the effects of age, sex and the like.

Example: eqpool harmonise in.tsv --site=site --keep=age,sex:categorical --features='*_thickness' -o harmonised.tsv

Writes the table with all its columns in their order and the features replaced, and beside it a scorecard
(harmonised_scorecard.html and .json) that compares the raw features, ComBat and what is handed back. The scorecard is
measured on rows that its corrections were not fitted on: a fifth of the people is held out, once. The table is then
harmonised by a correction that is fitted on all rows. Do not probe the harmonised table for the site: in rows that a
correction was fitted on, a classifier finds less than in new people.

Missing features stay missing. Rows without a site: calibrate and ours correct them as far as they look like a known
site, and combat leaves them as they are.
"""

import argparse
import pathlib

from eqpool.commands.given_paths import check_file, check_folder
from eqpool.commands.shell import attempt, make_parser, path_argument, whole_number
from eqpool.errors import InputError

METHODS = ("calibrate", "combat", "ours")
_TABLES = (".tsv", ".csv")


def main(arguments: list[str]) -> int:
    """Parses `arguments`, harmonises and returns the exit code."""
    options = _parser().parse_args(arguments)

    def work() -> None:
        _check_paths(options)
        from eqpool.commands.harmonise_table import harmonise  # imports pandas and scikit-learn

        harmonise(options)

    return attempt(work, options.output.parent, "writes every file again")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("eqpool harmonise", __doc__)
    parser.add_argument("table", type=path_argument, help="table with a row a scan, .tsv or .csv")
    parser.add_argument("-o", "--output", type=path_argument, required=True, help="harmonised table, .tsv or .csv")
    parser.add_argument("--site", default="site", help="column of the scanners (default: site)")
    parser.add_argument("--features", required=True, help="columns to harmonise: names or patterns, comma-separated")
    parser.add_argument(
        "--keep", default="", help="columns whose effects are kept, comma-separated, such as age,sex:categorical"
    )
    parser.add_argument("--target", default="", help="column of a diagnosis or score whose effect is kept too")
    parser.add_argument(
        "--person",
        default="",
        help="column that names people, whose rows stay together (participant_id if there is one)",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="calibrate",
        help="calibrate: location, scale and covariance by empirical Bayes; combat: ComBat; ours: the networks of "
        "Lokhande et al. 2022 after the calibration (default: calibrate)",
    )
    parser.add_argument("--reference", default="", help="site that stays as it is and whose look the others take")
    parser.add_argument("--fit_on", default="", help="learn from these rows alone, such as dx:CN, and apply to all")
    parser.add_argument("--new", type=path_argument, help="a further table, harmonised by the same correction")
    parser.add_argument("--new_output", type=path_argument, help="where --new is written")
    parser.add_argument("--save", type=path_argument, help="write the correction to this .npz")
    parser.add_argument(
        "--permutations",
        type=whole_number,
        default=20,
        help="how often the probes of the scorecard read shuffled sites, which shows what they find by chance "
        "(default: 20; 0 leaves it out, which is faster)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the held-out rows and of the networks")
    return parser


def _check_paths(options: argparse.Namespace) -> None:
    """Raises `InputError` for the first path that cannot be read or written."""
    check_file(options.table, str(options.table), "a table, .tsv or .csv")
    if (options.new is None) != (options.new_output is None):
        raise InputError("--new and --new_output: one without the other, expected both or none")
    if options.new is not None:
        check_file(options.new, f"--new={options.new}", "a table, .tsv or .csv")
    if options.new_output is not None and options.new_output.resolve() == options.output.resolve():
        raise InputError(f"--new_output={options.new_output}: the same file as --output, expected another name")
    read = [path.resolve() for path in (options.table, options.new) if path]
    for flag, path in (("--output", options.output), ("--new_output", options.new_output), ("--save", options.save)):
        if path is None:
            continue
        check_folder(path.absolute().parent, f"{flag}={path}", "a file's name in a folder")
        if path.resolve() in read:
            raise InputError(f"{flag}={path}: an input, which is never overwritten; expected another name")
        _check_ending(flag, path, (".npz",) if flag == "--save" else _TABLES)


def _check_ending(flag: str, path: pathlib.Path, endings: tuple[str, ...]) -> None:
    if path.suffix.lower() not in endings:
        raise InputError(f"{flag}={path}: expected a name that ends in {' or '.join(endings)}")
    if path.is_dir():
        raise InputError(f"{flag}={path}: a folder, expected a file's name")
