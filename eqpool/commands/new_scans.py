"""Applies a finished run to new participants: `python -m eqpool.transform` (the package says what it writes)."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from eqpool import __version__
from eqpool.commands.run import use_compilation_cache
from eqpool.commands.shell import complain
from eqpool.config import OutputConfig, RunConfig, keeps_sign
from eqpool.data.tables.coding import UNKNOWN
from eqpool.data.tables.encoding import FeatureEncoding, NumberColumn
from eqpool.data.tables.participants import (
    ID_COLUMN,
    ParticipantsTable,
    check_duplicates,
    named_sites,
    parse_numbers,
    read_participants,
    who,
)
from eqpool.data.tables.scaling import pooled_change
from eqpool.data.volumes.bids_names import names_in_table
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.locate import find_images
from eqpool.data.volumes.prepare import Preparation, PreparedScan, alignments_folder, in_parallel, preparing
from eqpool.errors import InputError
from eqpool.methods.decoding import Pooled, pool_volumes, volume_writer
from eqpool.methods.derivatives import (
    FOLDER,
    Clipped,
    check_not_inputs,
    derivative_paths,
    say_clipped,
    write_description,
)
from eqpool.methods.pooling_chain import standard_promotion
from eqpool.methods.trained import ModelFacts, Outputs, TrainedRun, load_trained, read_config
from eqpool.methods.trained_istn import Prepare, transform_by_istn
from eqpool.report.workfolder import OVERLAP_COLUMN
from eqpool.storage.files import read_arrays, write_atomically, write_json

OF_A_RUN = ("config.json", "model.json", "results.json")  # what no output of this command holds
WRITTEN = ("embeddings.tsv", "harmonised.tsv", "harmonised.json", "written.tsv", "left_out.tsv")
TABLE_BATCH = 4096
Say = Callable[[str], None]


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
    say: Say = print,
) -> pd.DataFrame:
    """Applies the run in `folder` to every row of `participants`; returns what embeddings.tsv holds.

    Args:
      folder: of a finished run.
      participants: a table with participant_id, and for a run on a table its feature columns.
      output: created where needed; nothing of the input is written over, and nothing of a run.
      root: where the images are; by default the folder of `participants`.
      outside_root: "allow" where paths in the table may lead out of `root`, whatever the run's config says of its own.
      harmonised: "change", "decoded" or "none"; by default as in the run's config.output.harmonised.
      on_bad_volume: "stop", or "skip" to leave bad volumes out; by default as in the run's config.data.on_bad_volume.
      keep_sign: "auto", "on" or "off"; by default as in the run's config.output.keep_sign.
      say: gets a line for each thing worth knowing.

    Raises:
      InputError: one line, naming the file, row and column; or the run was trained on volumes that another version of
        eqpool prepared.
    """
    config = _with_keep_sign(read_config(folder), keep_sign)
    if not (folder / "results.json").is_file():
        raise InputError(f"--workdir={folder}: results.json not found; expected the folder of a finished run")
    check_output(folder, output)
    cache = use_compilation_cache(config, folder)
    table = read_participants(participants)
    check_duplicates(table)

    image_root = root or participants.parent
    facts, data = ModelFacts.read(folder), config.data
    on_volumes = len(facts.input_shape) == 3
    facts.check_preparation(folder)
    check_not_inputs([output / name for name in WRITTEN], [participants])
    for note in _notes(config, facts, table):
        say(note)
    if on_bad_volume is not None and not on_volumes:
        raise InputError(
            f"--on_bad_volume={on_bad_volume}: the run is on {facts.dataset}, not on volumes; leave it out"
        )
    sources = find_images(table, image_root, outside_root=outside_root) if on_volumes else []
    left_out: dict[int, str] = {}
    overlaps: list[float] = []

    @contextlib.contextmanager
    def prepare() -> Iterator[Iterator[PreparedScan]]:
        preparation = Preparation(named_grid(data.grid), data.squash, data.align, _alignments(cache))
        how = on_bad_volume or data.on_bad_volume
        with preparing(sources, preparation, table.labels, how, data.workers, say, left_out.__setitem__) as scans:
            yield _noting_overlap(scans, overlaps)

    if config.method == "istn":
        if harmonised is not None:
            raise InputError(f"--harmonised={harmonised}: an ISTN has one form, which its shape decides; leave it out")
        written = transform_by_istn(folder, config, table, sources, image_root, output, prepare, say)
        written = written.assign(**{OVERLAP_COLUMN: np.round(overlaps, 4)})
        _write_left_out(output, table, left_out, say)
        _write_tsv(output / "written.tsv", written)
        _draw_steps(output)
        return written
    trained = dataclasses.replace(load_trained(folder), config=config)
    harmonised = (harmonised or config.output.harmonised) if trained.decode else "none"
    if on_volumes:
        embeddings = _transform_volumes(trained, table, sources, image_root, output, harmonised, prepare, say)
        embeddings.insert(list(embeddings).index("site") + 1, OVERLAP_COLUMN, np.round(overlaps, 4))
        _write_left_out(output, table, left_out, say)
    else:
        embeddings = _transform_table(trained, table, output, harmonised, say)
    _write_tsv(output / "embeddings.tsv", embeddings)
    return embeddings


def _with_keep_sign(config: RunConfig, keep_sign: str | None) -> RunConfig:
    """The config with another `output.keep_sign`, where one is asked for."""
    if keep_sign is None:
        return config
    output: OutputConfig = dataclasses.replace(config.output, keep_sign=keep_sign)  # type: ignore[arg-type]
    return dataclasses.replace(config, output=output)


def _noting_overlap(scans: Iterator[PreparedScan], overlaps: list[float]) -> Iterator[PreparedScan]:
    """The scans as they come; how each lies on the template is appended to `overlaps`."""
    for scan in scans:
        overlaps.append(scan.overlap)
        yield scan


def _write_left_out(output: pathlib.Path, table: ParticipantsTable, reasons: dict[int, str], say: Say) -> None:
    """left_out.tsv: who, and the reason; also where there are none, so that none of a former call stay behind."""
    rows = sorted(reasons)
    left_out = pd.DataFrame(who(table.take(np.array(rows, np.int64))))
    _write_tsv(output / "left_out.tsv", left_out.assign(reason=[reasons[row] for row in rows]))
    if rows:
        say(f"{len(rows)} of {len(table.frame)} volumes left out: {output / 'left_out.tsv'} says why")


def _alignments(cache: pathlib.Path) -> pathlib.Path | None:
    """Where the run kept what registration found; None where it may be kept no longer, as in another user's folder."""
    folder = alignments_folder(cache)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return folder if os.access(there, os.W_OK) else None


def check_output(folder: pathlib.Path, output: pathlib.Path) -> None:
    """Whether `output` leaves alone what runs have written: embeddings, figures and harmonised volumes have one name.

    Raises:
      InputError: it is a work directory, or lies in the derivatives of the run in `folder`.
    """
    place = output.resolve()  # `new/..` is the folder of `new`, before there is a `new` too
    there = [name for name in OF_A_RUN if (place / name).exists()]
    if there:
        raise InputError(
            f"--output={output}: a work directory ({there[0]} is there), expected another folder; what a run wrote is "
            "never written over"
        )
    derivatives = folder / FOLDER.parts[0]
    if place.is_relative_to(derivatives.resolve()):
        raise InputError(f"--output={output}: in {derivatives}, the run's own; expected another folder")


def _draw_steps(output: pathlib.Path) -> None:
    """Writes figures/transformations.png: what the ISTN did to the first few scans; one that fails is a line."""
    from eqpool.report.drawing import FigureFailed, protected, save
    from eqpool.report.transformations import draw_transformations

    def draw() -> None:
        figure = draw_transformations(read_arrays(output / "images" / "examples.npz"))
        save(figure, output / "figures" / "transformations.png")

    try:
        protected(draw)
    except FigureFailed as error:
        complain(f"figure transformations was not drawn ({error}); every other file is written")


def _notes(config: RunConfig, facts: ModelFacts, table: ParticipantsTable) -> Iterator[str]:
    column = config.data.site_column
    if column not in table.frame:
        yield f"no column {column}: not needed"
        return
    known, sites = facts.site_names, table.names_in(column)
    for site, count in zip(*np.unique(sites, return_counts=True), strict=True):
        if site and site not in known:
            yield (
                f"{column} {site}: not among those trained on ({', '.join(known)}); its {count} rows are transformed "
                "all the same, and how well pooling carries over to it is not known"
            )
    reference = (config.istn.reference or known[-1]) if config.method == "istn" else ""
    rows = int((sites == reference).sum()) if reference else 0
    if rows:
        yield f"{column} {reference}: the reference, whose look its {rows} rows have; they are transformed all the same"


def _transform_volumes(
    trained: TrainedRun,
    table: ParticipantsTable,
    sources: list[pathlib.Path],
    root: pathlib.Path,
    output: pathlib.Path,
    harmonised: str,
    prepare: Prepare,
    say: Say,
) -> pd.DataFrame:
    """Prepares, encodes, decodes and writes volume by volume."""
    write: Callable[[Pooled], Clipped | None] = lambda pooled: None  # noqa: E731
    clipped: list[Clipped | None] = []
    alignments: dict[int, np.ndarray | None] = {}
    if harmonised != "none":
        paths = derivative_paths(output / FOLDER, names_in_table(table, sources))
        write = volume_writer(trained, sources, paths, harmonised, alignments.get, root)
        origin = ", by networks trained on SIMULATED images" if trained.facts.simulated else ""
        write_description(output / FOLDER, __version__, harmonised=harmonised, origin=origin)

    def volumes(prepared: Iterator[PreparedScan]) -> Iterator[tuple[int, np.ndarray]]:
        for scan in prepared:
            alignments[scan.row] = scan.alignment
            yield scan.row, scan.volume

    def work(pooled: Pooled) -> tuple[int, Outputs]:
        clipped.append(write(pooled))
        return pooled.row, pooled.outputs

    with (
        prepare() as prepared,
        in_parallel(
            work,
            pool_volumes(trained, volumes(prepared)),
            workers=trained.config.data.workers,
            progress=True,
            label="Transforming",
            total=len(sources),
        ) as results,
    ):
        done = list(results)
    say_clipped([one for one in clipped if one is not None], say)
    kept = np.array([row for row, _ in done])
    outputs = {name: np.stack([one[name] for _, one in done]) for name in done[0][1]}
    return _embeddings(trained, table.take(kept), outputs)


def _transform_table(
    trained: TrainedRun, table: ParticipantsTable, output: pathlib.Path, harmonised: str, say: Say
) -> pd.DataFrame:
    encoding, dataset = trained.facts.features, trained.facts.dataset
    if encoding is None:
        raise InputError(f"the run was trained on {dataset}; expected one on a participants table or on volumes")
    frame = pd.DataFrame({column.name: _feature(table, column.name, column) for column in encoding.columns})
    encoding.check_categories(frame, table.frame[ID_COLUMN].tolist())
    for note in encoding.unlike_training(frame):
        say(note)
    uncalibrated = encoding.apply(frame)
    inputs = _calibrated(trained, table, uncalibrated)
    parts, changes = [], []
    for start in range(0, len(inputs), TABLE_BATCH):
        parts.append(trained.encode(inputs[start : start + TABLE_BATCH]))
        if harmonised != "none" and trained.decode is not None:
            pooled = trained.decode(parts[-1]["pooled_latent"])
            here = slice(start, start + len(pooled))
            before = trained.decode(parts[-1]["latent"]) if harmonised == "change" else inputs[here]
            changes.append(pooled_change(uncalibrated[here], inputs[here], before, pooled))
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if changes:
        keep_sign = keeps_sign(trained.config.output, on_volumes=False)
        values, clipped = harmonised_features(frame, encoding, np.concatenate(changes), keep_sign)
        _write_harmonised(output, pd.DataFrame(who(table)).join(values), clipped, keep_sign, say)
    return _embeddings(trained, table, outputs)


def _write_harmonised(
    output: pathlib.Path, table: pd.DataFrame, clipped: dict[str, int], keep_sign: bool, say: Say
) -> None:
    """harmonised.tsv, and beside it harmonised.json: whether signs were kept, and how many values that changed."""
    _write_tsv(output / "harmonised.tsv", table)
    write_json(output / "harmonised.json", {"keep_sign": keep_sign, "clipped": clipped})
    if clipped:
        named = ", ".join(f"{name} {count}" for name, count in clipped.items())
        say(f"{sum(clipped.values())} harmonised values below 0 are set to 0 (output.keep_sign): {named}")


def _calibrated(trained: TrainedRun, table: ParticipantsTable, inputs: np.ndarray) -> np.ndarray:
    """As the average scanner would have shown them; a row of no known site as of the one that it looks most like."""
    if trained.calibration is None:
        return inputs
    column = trained.config.data.site_column
    site = table.frame.get(column)
    return trained.calibration.apply(inputs, np.full(len(inputs), UNKNOWN) if site is None else table.names_in(column))


def harmonised_features(
    frame: pd.DataFrame, encoding: FeatureEncoding, change: np.ndarray, keep_sign: bool
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Every feature column in its own units, and how many values of which columns were clipped.

    Numbers get their change, constant columns and categories stay as they are, and so does what is missing.

    Args:
      frame: N rows of features, numbers as float64, NaN where missing.
      encoding: of the features.
      change: (N, F) in the encoded features' units, z-scores.
      keep_sign: whether values below 0 become 0 in columns whose training rows have none.
    """
    place = {name: index for index, name in enumerate(encoding.input_names)}
    numbers = [column.name for column in encoding.numbers]
    if not numbers:
        return frame, {}
    scaling = encoding.scaling
    values = scaling.with_change(frame[numbers].to_numpy(np.float64), change[:, [place[name] for name in numbers]])
    clipped = np.zeros(len(numbers), np.int64)
    if keep_sign:
        values, clipped = scaling.clipped(values)
    counts = {name: int(count) for name, count in zip(numbers, clipped, strict=True) if count}
    return frame.assign(**dict(zip(numbers, values.T, strict=True))), counts


def _feature(table: ParticipantsTable, name: str, column: object) -> np.ndarray:
    table.require(name, "a feature of the run")
    return parse_numbers(table, name) if isinstance(column, NumberColumn) else table.names_in(name).astype(object)


def _embeddings(trained: TrainedRun, table: ParticipantsTable, outputs: Outputs) -> pd.DataFrame:
    """participant_id, session where there is one, site, the prediction, l_*, phi_*."""
    facts, first = trained.facts, pd.DataFrame(who(table))
    first["site"] = named_sites(table, trained.config.data.site_column)
    if facts.target_classes:
        first[f"predicted_{facts.target_name}"] = np.array(facts.target_classes)[outputs["prediction"].argmax(axis=1)]
    else:
        scaled = outputs["prediction"][:, 0].astype(np.float64)
        first[f"predicted_{facts.target_name}"] = scaled * facts.scaling.target_deviation + facts.scaling.target_mean
    latent = pd.DataFrame(outputs["latent"]).add_prefix("l_")
    phi = pd.DataFrame(outputs["phi"]).add_prefix("phi_")
    return pd.concat([first, latent, phi], axis=1)


def _write_tsv(path: pathlib.Path, table: pd.DataFrame) -> None:
    write_atomically(path, lambda part: table.to_csv(part, sep="\t", index=False, na_rep="n/a"))
