"""A trained ISTN applied to new volumes: S2T, which has the reference site's look, and shape where an STN acts."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from eqpool import __version__
from eqpool.config import RunConfig
from eqpool.data.grids import named_grid
from eqpool.data.images import find_images
from eqpool.data.participants import ID_COLUMN, ParticipantsTable, session_column
from eqpool.data.store import find_alignment, in_parallel
from eqpool.data.volumes import BadVolumeError, prepare_volume
from eqpool.derivatives import (
    FOLDER,
    check_not_inputs,
    derivative_paths,
    to_z_scores,
    write_change,
    write_decoded,
    write_description,
)
from eqpool.errors import InputError
from eqpool.train.istn import make_istn, transform
from eqpool.train.pairs import make_game_optimizer
from eqpool.train.task import make_task
from eqpool.trained import ModelFacts, selected_variables

Harmonise = Callable[[np.ndarray, int], np.ndarray]


def load_istn(folder: pathlib.Path, config: RunConfig, facts: ModelFacts) -> Harmonise:
    """The selected epoch's S2T: (volume of `facts.input_shape` in [-1, 1], index of its site) -> the same shape.

    Raises:
      InputError: no checkpoint, or a damaged one.
    """
    shape, classes, sites = facts.input_shape, len(facts.target_classes), len(facts.site_names)
    pretrained = make_task(config, shape, classes).initialise(jax.random.key(config.seed))
    stage = make_istn(config, shape, sites, classes, pretrained)
    optimizer = make_game_optimizer(config.istn, 1)
    variables = selected_variables(config, stage, folder / "checkpoints", optimizer)

    @jax.jit
    def apply(variables: Any, image: jax.Array, site: jax.Array) -> jax.Array:
        return transform(config, variables, image[None], site[None], sites).image[0, ..., 0]

    return lambda image, site: np.asarray(apply(variables, jnp.asarray(image), jnp.int32(site)))


def transform_by_istn(
    folder: pathlib.Path,
    config: RunConfig,
    table: ParticipantsTable,
    root: pathlib.Path,
    output: pathlib.Path,
    say: Callable[[str], None],
) -> pd.DataFrame:
    """Writes S2T of every row under `output`/derivatives/eqpool, on its input's voxels and in its units.

    Without an STN it is the input plus the change of its looks; with one the anatomy itself moves, so that S2T takes
    the input's place at the resolution of the config's grid. Between two sites the ISTN does not ask which one a scan
    is of; of more sites it has to be told.

    Returns:
      participant_id and site of the rows that were written.

    Raises:
      InputError: a run on digits, a bad volume, or a site that is needed and not known.
    """
    facts = ModelFacts.read(folder)
    if len(facts.input_shape) != 3:
        raise InputError(f"the run was trained on {facts.dataset}, expected one on volumes")
    grid, data = named_grid(config.data.grid), config.data
    sites = _sites(table, data.site_column, facts.site_names)
    sources = [pathlib.Path(path) for path in find_images(table, root)]
    column = session_column(table)
    sessions = table.frame[column].tolist() if column else [""] * len(sources)
    paths = derivative_paths(output / FOLDER, table.frame[ID_COLUMN].tolist(), sessions)
    check_not_inputs(paths, sources)
    harmonised = "change" if config.istn.shape == "none" else "decoded"
    write_description(output / FOLDER, __version__, harmonised=f"istn_{harmonised}")
    harmonise = load_istn(folder, config, facts)

    def prepare(row: int) -> tuple[int, np.ndarray | BadVolumeError, np.ndarray | None]:
        try:
            alignment = find_alignment(sources[row], data.align)
            return row, prepare_volume(sources[row], grid, squash=data.squash, alignment=alignment)[0], alignment
        except BadVolumeError as error:
            return row, BadVolumeError(f"{table.where(row)}: {error}"), None

    def finished(prepared: Iterator[Any]) -> Iterator[int]:
        for row, volume, alignment in prepared:
            if isinstance(volume, BadVolumeError):
                if data.on_bad_volume == "stop":
                    raise volume
                say(f"left out: {volume}")
                continue
            made = to_z_scores(harmonise(volume, int(sites[row])), data.squash)
            if harmonised == "change":
                write_change(sources[row], made - to_z_scores(volume, data.squash), grid, paths[row], alignment)
            else:
                write_decoded(sources[row], made, grid, paths[row], alignment)
            yield row

    count = len(sources)
    with in_parallel(
        prepare, range(count), workers=data.workers, progress=True, label="Transforming", total=count
    ) as prepared:
        kept = np.array(list(finished(prepared)), np.int64)
    if not kept.size:
        raise InputError(f"{table.path}: none of {count} volumes can be used")
    written = table.take(kept).frame
    site = written.get(data.site_column)
    return pd.DataFrame({ID_COLUMN: written[ID_COLUMN], "site": "n/a" if site is None else site.replace("", "n/a")})


def _sites(table: ParticipantsTable, column: str, known: tuple[str, ...]) -> np.ndarray:
    """Each row's site as the network takes it; zeros where there are two, as it takes none then."""
    if len(known) == 2:
        return np.zeros(len(table.frame), np.int64)
    names = table.require(column, f"an ISTN of {len(known)} sites has to know it")
    for row, name in enumerate(names):
        if name not in known:
            raise InputError(
                f'{table.where(row, column)}: "{name or "n/a"}", expected one of {", ".join(known)}: an ISTN of more '
                "than two sites has to know which one a scan is of"
            )
    return np.array([known.index(name) for name in names])
