"""Harmonises volumes or features by ComBat, without networks: the rival of every other method, and useful by itself."""

import dataclasses
import pathlib
from collections.abc import Iterable

import numpy as np
import pandas as pd

from eqpool.config import RunConfig, keeps_sign
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.shape import DataShape
from eqpool.data.site_effects.combat import Combat
from eqpool.data.tables.participants import ParticipantsTable, named_sites, sites_of, who
from eqpool.data.volumes.bids_names import names_in_table
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.parallel import in_parallel
from eqpool.data.volumes.preparation import PreparedScan
from eqpool.engine.session import Session
from eqpool.engine.state import Stage
from eqpool.errors import InputError
from eqpool.evaluate.scorecard import COMBAT
from eqpool.methods.base import NewScans, Outcome, PlannedStage, Say
from eqpool.methods.combat_fit import fit_combat
from eqpool.methods.decoding import Pooled
from eqpool.methods.derivatives import to_z_scores
from eqpool.methods.facts import ModelFacts
from eqpool.methods.handed_back import score_table, score_volumes
from eqpool.methods.harmonised_table import feature_frame, write_harmonised_table
from eqpool.methods.harmonised_volumes import rows_to_harmonise, write_and_measure
from eqpool.methods.run_tables import pooled_table
from eqpool.methods.scored_voxels import ScoredVoxels
from eqpool.methods.volume_writer import VolumeWriter, origin_of
from eqpool.storage import files
from eqpool.storage.run_folder import RunFolder


class CombatMethod:
    """ComBat on the voxels of prepared volumes, or on the numbers of a table. There is nothing to train."""

    decodes = False

    def scaling(self, config: RunConfig, cohort: Cohort) -> Scaling:
        """Scales covariates and target by all training rows.

        Raises:
          InputError: the cohort has neither volumes nor named features, or `config.data.reference` is no site of it.
        """
        if cohort.volumes is None and (cohort.table is None or cohort.table.encoding is None):
            raise InputError(f"{cohort.name}: expected volumes or a participants table for ComBat")
        return Scaling.fit(cohort)

    def reference(self, config: RunConfig, cohort: Cohort) -> str:
        """Returns `config.data.reference`."""
        return config.data.reference

    def stages(self, config: RunConfig, shape: DataShape) -> tuple[Stage, ...]:
        """Returns no stages."""
        return ()

    def plan(self, config: RunConfig, cohort: Cohort) -> list[PlannedStage]:
        """Returns no stages."""
        return []

    def fit(self, session: Session, cohort: Cohort, scaling: Scaling, folder: RunFolder) -> Outcome:
        """Learns the effects from the training rows, writes combat.npz, and harmonises all rows.

        Volumes go to derivatives/eqpool, and the rows of a table to harmonised.tsv.

        Returns:
          The metrics of `eqpool.methods.harmonised_volumes.harmonise_cohort` for volumes, and none for a table.
        """
        combat = fit_combat(cohort, session.config)
        files.write_arrays(folder.combat_file, combat.to_arrays())
        for line in combat.notes():
            folder.append_to_log(line)
        facts = ModelFacts.of(cohort, scaling, self.reference(session.config, cohort))
        model = CombatModel(session.config, facts, combat)
        harmonise = _harmonise_table if cohort.volumes is None else _harmonise_volumes
        return harmonise(model, cohort, session.config, folder)

    def load(self, folder: RunFolder, config: RunConfig | None = None) -> "CombatModel":
        """Loads the effects of a finished run.

        Raises:
          InputError: a file is missing or unreadable.
        """
        facts, arrays = ModelFacts.read(folder), files.read_arrays(folder.combat_file)
        return CombatModel(config or folder.read_config(), facts, Combat.from_arrays(arrays))


def _harmonise_table(model: "CombatModel", cohort: Cohort, config: RunConfig, folder: RunFolder) -> Outcome:
    assert cohort.table is not None and cohort.table.features is not None
    pooled, sites = pooled_table(cohort), cohort.site_labels
    who_is_who = pooled[[name for name in ("participant_id", "session_id") if name in pooled]]
    change = model.write_rows(who_is_who, cohort.table.features, sites, folder, folder.append_to_log)
    return Outcome({}, scorecard=score_table(cohort, config, change, COMBAT) if config.evaluate.scorecard else None)


def _harmonise_volumes(model: "CombatModel", cohort: Cohort, config: RunConfig, folder: RunFolder) -> Outcome:
    voxels = ScoredVoxels(cohort, config.seed, COMBAT) if config.evaluate.scorecard else None
    form, say = config.output.harmonised, folder.append_to_log
    rows = rows_to_harmonise(cohort, form, voxels)
    sites = cohort.site_labels
    stream = (model.pooled(row, cohort.uncalibrated[row], sites[row]) for row in rows)
    scale = model.facts.output_scale(config.output)
    measured = write_and_measure(
        stream, rows, cohort, folder, config, form, say, by="combat_", scale=scale, voxels=voxels
    )
    # Nothing is decoded, so that both forms of the volumes are the same on the grid of the run.
    metrics = {name: value for name, value in measured.items() if "_decoded" not in name}
    return Outcome(metrics, scorecard=None if voxels is None else score_volumes(cohort, config, voxels))


@dataclasses.dataclass(frozen=True)
class CombatModel:
    """The effects of a finished run, applied to new scans or rows.

    Every row is corrected about the mean training row, without its covariates or target, so that new scans need
    neither. Rows of sites that the run was not trained on stay as they are.

    Attributes:
      config, facts: config and training cohort of the run.
      combat: the effects, on z-scores inside the brain mask or on the encoded features of a table.
    """

    config: RunConfig
    facts: ModelFacts
    combat: Combat
    calibration = None

    @property
    def reference_site(self) -> str:
        """The site whose rows stay as they are, "" without a reference."""
        return self.combat.reference

    def table_file(self, output: RunFolder) -> pathlib.Path:
        """Returns the file of the table that `write` returns."""
        return output.written_file

    def pooled(self, row: int, inputs: np.ndarray, site: str) -> Pooled:
        """Returns a volume beside its harmonised form, both in z-scores of its tissue."""
        grid, before = named_grid(self.config.data.grid), to_z_scores(inputs, self.config.data.squash)
        after = before.copy()
        after[grid.mask] = self.combat.apply(before[grid.mask][None], np.array([site]))[0]
        return Pooled(row, before, {}, before, after)

    def calibrated_on(self, controls: NewScans, say: Say) -> "CombatModel":
        """Raises `InputError`, as ComBat learns no effects from controls."""
        raise InputError(f"--calibrate={controls.table.path}: expected a run of a method with a site calibration")

    def write(self, scans: NewScans, output: RunFolder, harmonised: str | None, say: Say) -> pd.DataFrame:
        """Writes the harmonised data of new scans; see `eqpool.methods.base.TrainedModel`.

        Volumes go to derivatives/eqpool, features to harmonised.tsv. The returned table has participant_id, the session
        if there are sessions, and the site.
        """
        sites = sites_of(scans.table, self.config.data.site_column)
        for line in self.combat.notes_on(sites):
            say(line)
        if not self.facts.on_volumes:
            assert self.facts.features is not None  # `CombatMethod.scaling` refuses other tables
            frame = feature_frame(scans.table, self.facts.features, say)
            self.write_rows(pd.DataFrame(who(scans.table)), frame, sites, output, say)
            return self._written(scans.table)
        form = harmonised or self.config.output.harmonised
        kept = self._write_volumes(scans, sites, output, form, say)
        return self._written(scans.table.take(np.array(kept, np.int64)))

    def write_rows(
        self, rows: pd.DataFrame, frame: pd.DataFrame, sites: np.ndarray, output: RunFolder, say: Say
    ) -> np.ndarray:
        """Writes harmonised.tsv, and returns the (N, F) change of the encoded features in z-scores.

        Args:
          rows: participant_id of the N rows, and the session if there are sessions.
          frame: features of the rows, in their own units.
          sites: (N,) names of the rows' sites.
          output: output folder.
          say: receives a line on values that were set to 0.
        """
        encoding = self.facts.features
        assert encoding is not None
        inputs = encoding.apply(frame)
        change = self.combat.apply(inputs, sites) - inputs
        keep_sign = keeps_sign(self.config.output, on_volumes=False)
        write_harmonised_table(output, rows, frame, encoding, change, keep_sign, say)
        return change

    def _write_volumes(self, scans: NewScans, sites: np.ndarray, output: RunFolder, form: str, say: Say) -> list[int]:
        writer = VolumeWriter(
            output.derivatives,
            names_in_table(scans.table, scans.sources),
            scans.sources,
            scans.root,
            named_grid(self.config.data.grid),
            self.config.output,
            form="change" if form == "none" else form,
            by="combat_",
            origin=origin_of(self.facts.simulated),
            scale=self.facts.output_scale(self.config.output),
        )

        def work(scan: PreparedScan) -> int:
            if form != "none":
                self.pooled(scan.row, scan.volume, sites[scan.row]).write(writer, scan.facts)
            return scan.row

        with scans.prepare() as prepared:
            done = self._in_parallel(work, prepared, len(scans.sources))
        writer.report(say)
        return done

    def _in_parallel(self, work, prepared: Iterable[PreparedScan], total: int) -> list[int]:
        workers = self.config.data.workers
        with in_parallel(work, prepared, workers=workers, progress=True, label="Harmonising", total=total) as results:
            return list(results)

    def _written(self, table: ParticipantsTable) -> pd.DataFrame:
        return pd.DataFrame(who(table) | {"site": named_sites(table, self.config.data.site_column)})
