"""The command: `eqpool transform --workdir=runs/adni --participants=new/participants.tsv --output=out`.

Applies a finished run to new participants, volumes or tables as in the run. Writes embeddings.tsv (participant_id,
site, for volumes mask_overlap, the prediction, l_*, phi_*) and, if the method decodes, the harmonised data: volumes
under derivatives/eqpool, or harmonised.tsv with harmonised.json. An unusable volume stops the command. With
--on_bad_volume=skip such volumes are left out and listed in left_out.tsv. Neither site nor target nor covariates are
needed, as the networks see only the image. Rows of a site that the run was not trained on are transformed with a
notice. A category of a feature that the run was not trained on is refused.

Volumes are written on the run's common intensity scale, new scanners included, or with --scale=as_scanned in the units
of each scan. A run of a version without common scales writes as_scanned.

If the run has a site calibration (config.data.site_calibration), volumes and features start from it. Where a volume's
site is not given or not known, it is predicted. --calibrate=controls.tsv learns the effects of sites that the run was
not trained on from a few controls of each (participant_id, site, the covariates, the features or images, and the
target where it is known). They are used for the rows of these sites and written to calibration.npz in the output
folder. The run folder is not changed.

A run of config.method = istn has no latent. It writes S2T (`eqpool.methods.istn_model`), written.tsv in place of
embeddings.tsv, and figures/transformations.png, which shows the steps for the first few scans.
With more than two sites an ISTN needs the site of every scan.
"""

import argparse

from eqpool.commands.given_paths import check_file, check_folder, check_new_folder, check_run
from eqpool.commands.shell import attempt, make_parser, path_argument
from eqpool.storage.run_folder import RunFolder

_HARMONISED = ("change", "decoded", "none")
_SCALES = ("common", "as_scanned")


def main(arguments: list[str]) -> int:
    """Parses `arguments`, transforms and returns the exit code."""
    options = _parser().parse_args(arguments)

    def work() -> None:
        _check_paths(options)
        from eqpool.commands.new_scans import transform
        from eqpool.report.summary import describe_files

        written = transform(
            options.workdir,
            options.participants,
            options.output,
            root=options.root,
            outside_root=options.outside_root,
            harmonised=options.harmonised,
            on_bad_volume=options.on_bad_volume,
            keep_sign=options.keep_sign,
            scale=options.scale,
            calibrate=options.calibrate,
        )
        print(f"{options.participants}: {len(written)} rows transformed by {options.workdir}")
        print(describe_files(options.output))
        report = RunFolder(options.workdir).report_file
        if report.is_file():
            print(f"report of the run: {report}")

    return attempt(work, options.output, "writes every file again")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("eqpool transform", __doc__)
    parser.add_argument("--workdir", type=path_argument, required=True, help="folder of a finished run")
    parser.add_argument("--participants", type=path_argument, required=True, help="table of the new participants")
    parser.add_argument("--output", type=path_argument, required=True, help="folder to write to; made where needed")
    parser.add_argument("--root", type=path_argument, help="where the images are; default: the table's folder")
    parser.add_argument(
        "--outside_root", choices=("refuse", "allow"), default="refuse", help="paths in the table that leave the root"
    )
    parser.add_argument("--harmonised", choices=_HARMONISED, help="default: as the run's config.output.harmonised")
    parser.add_argument(
        "--on_bad_volume", choices=("stop", "skip"), help="default: as the run's config.data.on_bad_volume"
    )
    parser.add_argument(
        "--keep_sign", choices=("auto", "on", "off"), help="default: as the run's config.output.keep_sign"
    )
    parser.add_argument("--scale", choices=_SCALES, help="of volumes; default: as the run's config.output.scale")
    parser.add_argument(
        "--calibrate", type=path_argument, help="table of a few controls of new sites, with covariates and images"
    )
    return parser


def _check_paths(options: argparse.Namespace) -> None:
    """Raises `InputError` for the first missing path."""
    check_run(RunFolder(options.workdir))
    check_file(options.participants, f"--participants={options.participants}", "a participants.tsv or .csv")
    if options.root is not None:
        check_folder(options.root, f"--root={options.root}", "the folder that the images are in")
    if options.calibrate is not None:
        check_file(options.calibrate, f"--calibrate={options.calibrate}", "a table of controls, .tsv or .csv")
    check_new_folder(options.output, f"--output={options.output}")
