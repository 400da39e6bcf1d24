"""Applies a finished run to new participants, for `eqpool.commands.transform`, which lists the output files."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import pandas as pd

from eqpool.config import OutputConfig, RunConfig
from eqpool.data.tables.participants import ParticipantsTable, check_duplicates, read_participants, who
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.locate import find_images
from eqpool.data.volumes.preparation import Preparation, PreparedScan, alignments_folder, preparing
from eqpool.engine.compilation import standard_promotion, use_compilation_cache
from eqpool.errors import InputError, complain
from eqpool.methods.base import NewScans, Say, method_named
from eqpool.methods.derivatives import check_not_inputs
from eqpool.methods.facts import ModelFacts
from eqpool.storage.files import read_arrays, write_arrays, write_table
from eqpool.storage.run_folder import OVERLAP_COLUMN, RunFolder


@standard_promotion()
def transform(
    folder: pathlib.Path,
    participants: pathlib.Path,
    output: pathlib.Path,
    *,
    root: pathlib.Path | None = None,
    outside_root: str = "refuse",
    harmonised: str | None = None,
    on_bad_volume: str | None = None,
    keep_sign: str | None = None,
    scale: str | None = None,
    calibrate: pathlib.Path | None = None,
    say: Say = print,
) -> pd.DataFrame:
    """Applies the run in `folder` to every row of `participants` and returns the rows of embeddings.tsv or written.tsv.

    Args:
      folder: folder of a finished run.
      participants: table with participant_id and, for a run on a table, its feature columns.
      output: output folder, created if missing. No input and no file of a run is overwritten.
      root: folder of the images; by default the folder of `participants`.
      outside_root: "allow" if paths in the table may lead out of `root`, independent of the run's config.
      harmonised: "change", "decoded" or "none"; by default as in the run's config.output.harmonised.
      on_bad_volume: "stop", or "skip" to leave out bad volumes; by default as in the run's config.data.on_bad_volume.
      calibrate: table of a few controls of sites that the run was not trained on, with their covariates; its images lie
        in its own folder. The scanner effects learnt from them are written to `output`, and the run stays as it is.
      keep_sign: "auto", "on" or "off"; by default as in the run's config.output.keep_sign.
      scale: "common" or "as_scanned", of volumes alone; by default as in the run's config.output.scale.
      say: receives one line for each notice to the user.

    Raises:
      InputError: one line naming the file, row and column, or the run was trained on volumes that another version of
        eqpool prepared.
    """
    run_folder, written_to = RunFolder(folder), RunFolder(output)
    config = _with_output(run_folder.read_config(), keep_sign=keep_sign, scale=scale)
    run_folder.check_finished()
    check_output(run_folder, output)
    cache = use_compilation_cache(config, run_folder)
    table = read_participants(participants)
    check_duplicates(table)
    facts = ModelFacts.read(run_folder)
    facts.check_preparation(run_folder)
    check_not_inputs(_written(written_to), [participants])
    for flag, value in (("on_bad_volume", on_bad_volume), ("scale", scale)):
        if value is not None and not facts.on_volumes:
            raise InputError(f"--{flag}={value}: the run is on {facts.dataset}, not on volumes; leave it out")
    if facts.on_volumes:
        facts.output_scale(config.output)  # before hours of registering volumes
    model = method_named(config.method).load(run_folder, config)
    how = on_bad_volume or config.data.on_bad_volume
    added: tuple[str, ...] = ()
    if calibrate is not None:
        given = read_participants(calibrate)
        check_duplicates(given)
        controls, _, _ = _scans(given, calibrate.parent, outside_root, config, facts, cache, how, say)
        model = model.calibrated_on(controls, say)
        added = tuple(sorted(set(given.names_in(config.data.site_column).tolist())))
        write_arrays(written_to.calibration_file, model.calibration.to_arrays())
    for note in _notes(config, facts, model.reference_site, table, added):
        say(note)

    image_root = root or participants.parent
    scans, left_out, overlaps = _scans(table, image_root, outside_root, config, facts, cache, how, say)
    written = model.write(scans, written_to, harmonised, say)
    if facts.on_volumes:
        written.insert(list(written).index("site") + 1, OVERLAP_COLUMN, np.round(overlaps, 4))
        _write_left_out(written_to.left_out_file, table, left_out, say)
    write_table(model.table_file(written_to), written, missing="n/a")
    _draw_steps(written_to)
    return written


def _scans(
    table: ParticipantsTable,
    root: pathlib.Path,
    outside_root: str,
    config: RunConfig,
    facts: ModelFacts,
    cache: pathlib.Path,
    on_bad_volume: str,
    say: Say,
) -> tuple[NewScans, dict[int, str], list[float]]:
    """Finds the images of a table, and returns the scans with what is known of them once they have been prepared.

    Returns:
      The scans, the reasons of the rows that were left out, and the overlaps of the others with the template.
    """
    sources = find_images(table, root, outside_root=outside_root) if facts.on_volumes else []
    left_out: dict[int, str] = {}
    overlaps: list[float] = []

    @contextlib.contextmanager
    def prepare() -> Iterator[Iterator[PreparedScan]]:
        data = config.data
        align = data.align if data.align != "auto" else "affine" if facts.is_aligned else "none"
        preparation = Preparation(named_grid(data.grid), data.squash, align, _alignments(cache))
        labels, leave_out = table.labels, left_out.__setitem__
        with preparing(sources, preparation, labels, on_bad_volume, data.workers, say, leave_out) as scans:
            yield _noting_overlap(scans, overlaps)

    return NewScans(table, sources, root, prepare), left_out, overlaps


def _with_output(config: RunConfig, **changes: str | None) -> RunConfig:
    """Returns the config with keys of its group `output` replaced, except where the new value is None."""
    given = {key: value for key, value in changes.items() if value is not None}
    output: OutputConfig = dataclasses.replace(config.output, **given)  # type: ignore[arg-type]
    return dataclasses.replace(config, output=output)


def _noting_overlap(scans: Iterator[PreparedScan], overlaps: list[float]) -> Iterator[PreparedScan]:
    """Yields the scans and appends each one's overlap with the template to `overlaps`."""
    for scan in scans:
        overlaps.append(scan.facts.mask_overlap)
        yield scan


def _write_left_out(path: pathlib.Path, table: ParticipantsTable, reasons: dict[int, str], say: Say) -> None:
    """Writes left_out.tsv with participants and reasons. Without rows it still replaces the file of an earlier call."""
    rows = sorted(reasons)
    left_out = pd.DataFrame(who(table.take(np.array(rows, np.int64))))
    write_table(path, left_out.assign(reason=[reasons[row] for row in rows]), missing="n/a")
    if rows:
        say(f"{len(rows)} of {len(table.frame)} volumes left out: {path} says why")


def _alignments(cache: pathlib.Path) -> pathlib.Path | None:
    """Returns the run's folder of registrations, or None if it is not writable, as in another user's folder."""
    folder = alignments_folder(cache)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return folder if os.access(there, os.W_OK) else None


def check_output(folder: RunFolder, output: pathlib.Path) -> None:
    """Checks that `output` cannot overwrite embeddings, figures or harmonised volumes of a run.

    Raises:
      InputError: the output is a work directory, or lies in the derivatives of the run in `folder`.
    """
    place = output.resolve()  # `new/..` is the folder of `new`, even before `new` exists
    there = [path.name for path in RunFolder(place).inputs if path.exists()]
    if there:
        raise InputError(
            f"--output={output}: a work directory ({there[0]} is there), expected another folder; what a run wrote is "
            "never written over"
        )
    derivatives = folder.derivatives.parent
    if place.is_relative_to(derivatives.resolve()):
        raise InputError(f"--output={output}: in {derivatives}, the run's own; expected another folder")


def _written(output: RunFolder) -> list[pathlib.Path]:
    """Returns the tables that this command writes."""
    tables = [output.embeddings_file, output.calibration_file, output.harmonised_file, output.harmonised_facts_file]
    return [*tables, output.written_file, output.left_out_file]


def _draw_steps(output: RunFolder) -> None:
    """Writes figures/transformations.png if the model kept the steps of a few scans. A failure prints a warning."""
    if not output.examples_file.is_file():
        return
    from eqpool.report.drawing import FigureFailed, protected, save
    from eqpool.report.transformations import draw_transformations

    def draw() -> None:
        figure = draw_transformations(read_arrays(output.examples_file))
        save(figure, output.figures / "transformations.png")

    try:
        protected(draw)
    except FigureFailed as error:
        complain(f"figure transformations was not drawn ({error}); every other file is written")


def _notes(
    config: RunConfig, facts: ModelFacts, reference: str, table: ParticipantsTable, added: tuple[str, ...]
) -> Iterator[str]:
    column = config.data.site_column
    if column not in table.frame:
        yield f"no column {column}: not needed"
        return
    known, sites = (*facts.site_names, *added), table.names_in(column)
    for site, count in zip(*np.unique(sites, return_counts=True), strict=True):
        if site and site not in known:
            yield (
                f"{column} {site}: not among those trained on ({', '.join(facts.site_names)}); its {count} rows are "
                "transformed all the same, and how well pooling carries over to it is not known"
            )
    rows = int((sites == reference).sum()) if reference else 0
    if rows:
        yield f"{column} {reference}: the reference, whose look its {rows} rows have; they are transformed all the same"
