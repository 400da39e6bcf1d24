"""The command: `eqpool maps --workdir=runs/adni [--folds=3]`: statistical maps before and after pooling.

Trains the run of a work directory K more times, each time without one fold of the subjects, and decodes that fold
(`eqpool.methods.crossfit`). Then tests every voxel. Writes maps/*.nii.gz, maps/maps.json and figures/. The same
command resumes a stopped call. Training takes K times as long as the run itself.
"""

from eqpool.commands.given_paths import check_run
from eqpool.commands.shell import GOES_ON, attempt, make_parser, path_argument
from eqpool.storage.run_folder import RunFolder


def main(arguments: list[str]) -> int:
    """Parses `arguments`, makes the maps and returns the exit code."""
    parser = make_parser("eqpool maps", __doc__)
    parser.add_argument("--workdir", type=path_argument, required=True, help="folder of a run on volumes")
    parser.add_argument("--folds", type=int, default=3, help="how many parts, and runs; default 3")
    options = parser.parse_args(arguments)

    def work() -> None:
        run = RunFolder(options.workdir)
        check_run(run, run.config_file)
        from eqpool.commands import make_maps

        print(make_maps.describe_maps(make_maps.make_maps(options.workdir, options.folds)))
        if run.is_finished:
            from eqpool.report.page import write_report

            print(f"maps: {run.maps}\nreport: {write_report(options.workdir)}")

    return attempt(work, options.workdir, GOES_ON)
