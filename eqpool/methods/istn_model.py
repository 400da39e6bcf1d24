"""A trained ISTN for new volumes: S2T gives them the reference site's appearance, and its shape if there is an STN."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from eqpool.config import RunConfig
from eqpool.data.tables.participants import ID_COLUMN, ParticipantsTable, named_sites, who
from eqpool.data.volumes.bids_names import names_in_table
from eqpool.data.volumes.preparation import PreparedScan
from eqpool.engine.state import Variables
from eqpool.errors import InputError
from eqpool.methods.base import NewScans, Say
from eqpool.methods.facts import ModelFacts
from eqpool.methods.istn_steps import EXAMPLES, istn_steps
from eqpool.methods.istn_volumes import make_harmonise, write_harmonised
from eqpool.objectives.istn_networks import sees_sites
from eqpool.storage.files import write_arrays
from eqpool.storage.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class IstnModel:
    """The trained networks of a run.

    Attributes:
      config, facts: config and training cohort of the run.
      variables: variables of all networks, at the selected epoch.
    """

    config: RunConfig
    facts: ModelFacts
    variables: Variables
    calibration = None

    def table_file(self, output: RunFolder) -> pathlib.Path:
        """Returns the file of the table that `write` returns."""
        return output.written_file

    @property
    def reference_site(self) -> str:
        """The site whose appearance other sites are given."""
        return self.config.istn.reference or self.facts.site_names[-1]

    def calibrated_on(self, controls: NewScans, say: Say) -> "IstnModel":
        """Raises `InputError`, as an ISTN learns no effects from controls."""
        raise InputError(f"--calibrate={controls.table.path}: expected a run of a method with a site calibration")

    def write(self, scans: NewScans, output: RunFolder, harmonised: str | None, say: Say) -> pd.DataFrame:
        """Writes S2T of every scan with `eqpool.methods.istn_volumes.write_harmonised`.

        `output`/images/examples.npz holds the steps of the first few scans. Between two sites the ISTN does not need
        the site of a scan, nor does a universal one. With more sites every scan needs one.

        Returns:
          participant_id, session and site of the rows that were written.

        Raises:
          InputError: the run is on digits, a volume is bad, a required site is unknown, or `harmonised` is given. An
            ISTN has only one output form, which depends on its shape.
        """
        if harmonised is not None:
            raise InputError(f"--harmonised={harmonised}: an ISTN has one form, which its shape decides; leave it out")
        facts, table = self.facts, scans.table
        if not facts.on_volumes:
            raise InputError(f"the run was trained on {facts.dataset}, expected one on volumes")
        sites, num_sites = self._sites(table), len(facts.site_names)
        shown: list[PreparedScan] = []

        def noting_the_first(prepared: Iterable[PreparedScan]) -> Iterator[PreparedScan]:
            for scan in prepared:
                if len(shown) < EXAMPLES:
                    shown.append(scan)
                yield scan

        with scans.prepare() as prepared:
            kept = write_harmonised(
                output,
                self.config,
                make_harmonise(self.config, self.variables, num_sites),
                noting_the_first(prepared),
                len(scans.sources),
                sites,
                scans.sources,
                scans.root,
                names_in_table(table, scans.sources),
                facts.simulated,
                facts.output_scale(self.config.output),
                say,
            )
        rows = [scan.row for scan in shown]
        images = np.stack([scan.volume for scan in shown])
        steps = istn_steps(self.config, self.variables, images, sites[rows], num_sites)
        names = np.array([table.frame[ID_COLUMN].iloc[row] for row in rows], np.str_)
        write_arrays(output.examples_file, steps | {"name": names})
        written = table.take(np.array(kept, np.int64))
        return pd.DataFrame(who(written) | {"site": named_sites(written, self.config.data.site_column)})

    def _sites(self, table: ParticipantsTable) -> np.ndarray:
        """Returns each row's site index, or zeros if the network does not see the site."""
        known, column = self.facts.site_names, self.config.data.site_column
        if not sees_sites(len(known), self.config.istn.direction):
            return np.zeros(len(table.frame), np.int64)
        table.require(column, f"an ISTN of {len(known)} sites needs each scan's site")
        names = table.names_in(column).tolist()
        for row, name in enumerate(names):
            if name not in known:
                raise InputError(
                    f'{table.where(row, column)}: "{name or "n/a"}", expected one of {", ".join(known)}: an ISTN of '
                    "more than two sites has to know which one a scan is of, unless it is universal"
                )
        return np.array([known.index(name) for name in names])
