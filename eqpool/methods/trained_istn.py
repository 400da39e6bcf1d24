"""A trained ISTN applied to new volumes: S2T, which has the reference site's look, and shape where an STN acts."""

import pathlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

import jax
import numpy as np
import pandas as pd

from eqpool.config import RunConfig
from eqpool.data.tables.participants import ID_COLUMN, ParticipantsTable, named_sites, who
from eqpool.data.volumes.bids_names import names_in_table
from eqpool.data.volumes.prepare import PreparedScan
from eqpool.engine.pairs import make_game_optimizer
from eqpool.engine.state import Variables
from eqpool.errors import InputError
from eqpool.methods.istn_steps import EXAMPLES, istn_steps
from eqpool.methods.istn_volumes import make_harmonise, write_harmonised
from eqpool.methods.trained import ModelFacts, selected_variables
from eqpool.objectives.istn import make_istn
from eqpool.objectives.task import make_task
from eqpool.storage.files import write_arrays

Prepare = Callable[[], AbstractContextManager[Iterator[PreparedScan]]]


def load_istn(folder: pathlib.Path, config: RunConfig, facts: ModelFacts) -> Variables:
    """The variables of the selected epoch of a work directory.

    Raises:
      InputError: no checkpoint, or a damaged one.
    """
    shape, classes, sites = facts.input_shape, len(facts.target_classes), len(facts.site_names)
    pretrained = make_task(config, shape, classes).initialise(jax.random.key(config.seed))
    stage = make_istn(config, shape, sites, classes, pretrained)
    optimizer = make_game_optimizer(config.istn, 1)
    return selected_variables(config, stage, folder / "checkpoints", optimizer)


def transform_by_istn(
    folder: pathlib.Path,
    config: RunConfig,
    table: ParticipantsTable,
    sources: list[pathlib.Path],
    root: pathlib.Path,
    output: pathlib.Path,
    prepare: Prepare,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Writes S2T of every row, of `sources` in `root`, as `eqpool.methods.istn_volumes.write_harmonised` does.

    `prepare` gives what `eqpool.data.volumes.prepare.preparing` makes of them; rows that it leaves out are not written. `say`
    gets a line on the voxels that were set to 0, if any.

    Of the first few `output`/images/examples.npz holds what was done to them, step by step.
    Between two sites the ISTN does not ask which one a scan is of; of more sites it has to be told.

    Returns:
      participant_id, session and site of the rows that were written.

    Raises:
      InputError: a run on digits, a bad volume, or a site that is needed and not known.
    """
    facts = ModelFacts.read(folder)
    if len(facts.input_shape) != 3:
        raise InputError(f"the run was trained on {facts.dataset}, expected one on volumes")
    sites = _sites(table, config.data.site_column, facts.site_names)
    num_sites, variables = len(facts.site_names), load_istn(folder, config, facts)
    shown: list[PreparedScan] = []

    def noting_the_first(scans: Iterable[PreparedScan]) -> Iterator[PreparedScan]:
        for scan in scans:
            if len(shown) < EXAMPLES:
                shown.append(scan)
            yield scan

    with prepare() as prepared:
        kept = write_harmonised(
            output,
            config,
            make_harmonise(config, variables, num_sites),
            noting_the_first(prepared),
            len(sources),
            sites,
            sources,
            root,
            names_in_table(table, sources),
            facts.simulated,
            say,
        )
    rows = [scan.row for scan in shown]
    steps = istn_steps(config, variables, np.stack([scan.volume for scan in shown]), sites[rows], num_sites)
    names = np.array([table.frame[ID_COLUMN].iloc[row] for row in rows], np.str_)
    write_arrays(output / "images" / "examples.npz", steps | {"name": names})
    written = table.take(np.array(kept, np.int64))
    return pd.DataFrame(who(written) | {"site": named_sites(written, config.data.site_column)})


def _sites(table: ParticipantsTable, column: str, known: tuple[str, ...]) -> np.ndarray:
    """Each row's site as the network takes it; zeros where there are two, as it takes none then."""
    if len(known) == 2:
        return np.zeros(len(table.frame), np.int64)
    table.require(column, f"an ISTN of {len(known)} sites has to know it")
    names = table.names_in(column).tolist()
    for row, name in enumerate(names):
        if name not in known:
            raise InputError(
                f'{table.where(row, column)}: "{name or "n/a"}", expected one of {", ".join(known)}: an ISTN of more '
                "than two sites has to know which one a scan is of"
            )
    return np.array([known.index(name) for name in names])
