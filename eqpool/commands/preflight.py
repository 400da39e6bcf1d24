"""The pre-flight check: is this design identifiable? `eqpool preflight --participants=participants.tsv`.

Reads only the table, trains nothing, and prints one line a finding, with numbers and advice. Exit code 0, with or
without warnings. Exit code 2 with one line on stderr for bad input and for a design that is not identifiable, such as
a target determined by the site.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from eqpool.commands.given_paths import check_file, check_folder
from eqpool.commands.shell import make_parser, path_argument
from eqpool.config import DataConfig
from eqpool.errors import InputError, complain, to_path

if TYPE_CHECKING:  # imported late, because a missing path should not wait for pandas
    from eqpool.data.cohort import Cohort
    from eqpool.data.preflight.finding import Finding


def preflight(config: DataConfig) -> tuple[Cohort, list[Finding]]:
    """Reads `config.participants` and examines it; `config.target` and `config.features` may be "".

    Returns:
      The cohort without its inputs, and all findings. No finding raises an error.

    Raises:
      InputError: one line, if the table cannot be read, a scan appears twice or a subject is in two splits.
    """
    from eqpool.data.preflight.findings import examine
    from eqpool.data.sources.participants_folder import load_design

    cohort = load_design(config)
    return cohort, examine(cohort)


def main(arguments: list[str]) -> int:
    """Prints the findings and returns the exit code."""
    options = _parser().parse_args(arguments)
    config = DataConfig(
        participants=options.participants,
        site_column=options.site_column,
        covariates=options.covariates,
        nuisances=options.nuisances,
        target=options.target,
        target_type=options.target_type,
        features=options.features,
    )
    try:
        given = f"--participants={options.participants}"
        check_file(to_path(options.participants), given, "a participants.tsv or .csv")
        if options.json:
            check_folder(options.json.absolute().parent, f"--json={options.json}", "a file's name in a folder")
        from eqpool.data.preflight.finding import refuse
        from eqpool.report.summary import describe_findings, describe_top
        from eqpool.storage.files import write_json

        cohort, findings = preflight(config)
        if describe_top(findings):
            print(describe_top(findings))
        print(f"{options.participants}: {len(cohort.site)} rows, {len(cohort.site_names)} sites")
        for note in cohort.notes:
            print(f"  note: {note}")
        print(describe_findings(findings, everything=True))
        if options.json:
            write_json(options.json, [finding.to_dict() for finding in findings])
        refuse(findings)
    except InputError as error:
        return complain(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("eqpool preflight", __doc__)
    parser.add_argument("--participants", required=True, help="participants.tsv or .csv")
    parser.add_argument("--site_column", default="site")
    parser.add_argument("--covariates", default="age", help="comma-separated; age,sex:categorical")
    parser.add_argument("--nuisances", default="", help="comma-separated categorical columns")
    parser.add_argument("--target", default="", help="a column; without it nothing is said about a target")
    parser.add_argument("--target_type", default="auto", choices=("auto", "classes", "number"))
    parser.add_argument("--features", default="", help="comma-separated columns or glob patterns")
    parser.add_argument("--json", type=path_argument, help="also write the findings there")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
