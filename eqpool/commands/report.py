"""Draws the figures of a finished run and writes its report.html again.

Example: eqpool report --workdir=runs/adni --compare runs/adni_naive runs/adni_mmd

With --compare a table adds further runs on the same data, such as the baselines.
"""

from eqpool.commands.given_paths import check_run
from eqpool.commands.shell import attempt, make_parser, path_argument
from eqpool.storage.run_folder import RunFolder


def main(arguments: list[str]) -> int:
    """Writes the report of a finished run and returns the exit code."""
    parser = make_parser("eqpool report", __doc__)
    parser.add_argument("--workdir", type=path_argument, required=True, help="folder of a finished run")
    parser.add_argument("--compare", type=path_argument, nargs="*", default=[], help="folders of runs on the same data")
    options = parser.parse_args(arguments)

    def work() -> None:
        check_run(RunFolder(options.workdir))
        for other in map(RunFolder, options.compare):
            check_run(other, other.results_file, flag="--compare")
        # After the paths, as these import matplotlib and nilearn.
        from eqpool.report.page import write_report
        from eqpool.report.summary import describe_verdict_of_run
        from eqpool.storage.files import read_json

        page = write_report(options.workdir, options.compare)
        print("\n".join(describe_verdict_of_run(read_json(RunFolder(options.workdir).results_file), page)))

    return attempt(work, options.workdir, "draws every figure again")
