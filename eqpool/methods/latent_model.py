"""A trained method with latents, applied to new scans: encodes, decodes and writes."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from eqpool.config import RunConfig, keeps_sign
from eqpool.data.site_effects.voxelwise import VoxelCalibration
from eqpool.data.sources.volume_calibration import predicted_note
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.participants import ParticipantsTable, named_sites, sites_of, who
from eqpool.data.tables.scaling import pooled_change
from eqpool.data.volumes.bids_names import names_in_table
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.inputs import Grid, ImageFacts
from eqpool.data.volumes.intensity_scale import CommonScale
from eqpool.data.volumes.parallel import in_parallel
from eqpool.data.volumes.preparation import PreparedScan
from eqpool.errors import InputError
from eqpool.methods.base import NewScans, Outputs, Say
from eqpool.methods.calibration import Calibration
from eqpool.methods.controls import with_controls
from eqpool.methods.decoding import Pooled, PreparedRow, pool_volumes
from eqpool.methods.facts import ModelFacts
from eqpool.methods.harmonised_table import feature_frame, write_harmonised_table
from eqpool.methods.volume_writer import VolumeWriter, origin_of
from eqpool.storage.run_folder import RunFolder

TABLE_BATCH = 4096
Encode = Callable[[np.ndarray], Outputs]
Decode = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class LatentModel:
    """The trained networks of a run.

    Attributes:
      config, facts: config and training cohort of the run.
      encode: (B, *input_shape) float32 -> `latent`, `phi` and `prediction`, each with B rows. A model that decodes also
        returns `pooled_latent` (B, n), the pooled latent on the unit sphere, on which D was trained.
      decode: latents (B, n) -> (B, *input_shape) float32, for volumes with the linear part once it is fitted
        (`eqpool.methods.linear_decoder`). None if the method cannot decode Phi.
      calibration: site calibration applied to features or volumes before training; None if there is none.
      change_scale: factor on the change of the decode by pooling (`eqpool.methods.change`).
    """

    config: RunConfig
    facts: ModelFacts
    encode: Encode
    decode: Decode | None
    calibration: Calibration | None = None
    change_scale: float = 1.0
    reference_site = ""

    def table_file(self, output: RunFolder) -> pathlib.Path:
        """Returns the file of the table that `write` returns."""
        return output.embeddings_file

    @property
    def grid(self) -> Grid | None:
        """The grid of volumes; None for tables."""
        return named_grid(self.config.data.grid) if self.facts.on_volumes else None

    @property
    def scale(self) -> CommonScale | None:
        """The intensity scale of written volumes; None for the units of each scan."""
        return self.facts.output_scale(self.config.output)

    def calibrated_on(self, controls: NewScans, say: Say) -> "LatentModel":
        """Returns a copy that has the scanner effects of the controls' sites; see `TrainedModel`."""
        if self.calibration is None:
            raise InputError(
                f"--calibrate={controls.table.path}: the run has no site calibration, "
                "expected one with config.data.site_calibration"
            )
        calibration = with_controls(self.calibration, controls, self.config, self.facts, say)
        return dataclasses.replace(self, calibration=calibration)

    def write(self, scans: NewScans, output: RunFolder, harmonised: str | None, say: Say) -> pd.DataFrame:
        """Writes the harmonised data of new scans; see `eqpool.methods.base.TrainedModel`.

        Volumes go to derivatives/eqpool, features to harmonised.tsv. The returned table has participant_id, the session
        if there are sessions, site, the prediction, l_* and phi_*.
        """
        form = (harmonised or self.config.output.harmonised) if self.decode else "none"
        if self.grid is not None:
            return self._write_volumes(scans, output, form, say)
        return self._write_table(scans.table, output, form, say)

    def _write_volumes(self, scans: NewScans, output: RunFolder, form: str, say: Say) -> pd.DataFrame:
        """Prepares, encodes, decodes and writes volume by volume."""
        writer = None if form == "none" else self._writer(scans, output, form)
        facts: dict[int, ImageFacts] = {}
        sites, predicted = sites_of(scans.table, self.config.data.site_column), list[str]()

        def volumes(prepared: Iterator[PreparedScan]) -> Iterator[PreparedRow]:
            for scan in prepared:
                facts[scan.row] = scan.facts
                yield PreparedRow(scan.row, scan.volume, self._calibrated(scan.volume, sites[scan.row], predicted))

        def work(pooled: Pooled) -> tuple[int, Outputs]:
            if writer is not None:
                pooled.write(writer, facts[pooled.row])
            return pooled.row, pooled.outputs

        with (
            scans.prepare() as prepared,
            in_parallel(
                work,
                pool_volumes(self, volumes(prepared)),
                workers=self.config.data.workers,
                progress=True,
                label="Transforming",
                total=len(scans.sources),
            ) as results,
        ):
            done = list(results)
        if writer is not None:
            writer.report(say)
        if predicted:
            say(predicted_note(predicted, self.config.data.site_column))
        kept = np.array([row for row, _ in done])
        outputs = {name: np.stack([one[name] for _, one in done]) for name in done[0][1]}
        return self._embeddings(scans.table.take(kept), outputs)

    def _writer(self, scans: NewScans, output: RunFolder, form: str) -> VolumeWriter:
        assert self.grid is not None
        return VolumeWriter(
            output.derivatives,
            names_in_table(scans.table, scans.sources),
            scans.sources,
            scans.root,
            self.grid,
            self.config.output,
            form=form,
            by="" if self.calibration is None else "calibrated_",
            origin=origin_of(self.facts.simulated),
            scale=self.scale,
        )

    def _write_table(self, table: ParticipantsTable, output: RunFolder, form: str, say: Say) -> pd.DataFrame:
        encoding, dataset = self.facts.features, self.facts.dataset
        if encoding is None:
            raise InputError(f"the run was trained on {dataset}; expected one on a participants table or on volumes")
        frame = feature_frame(table, encoding, say)
        uncalibrated = encoding.apply(frame)
        outputs, change = self.harmonise_features(uncalibrated, sites_of(table, self.config.data.site_column), form)
        if change is not None:
            keep_sign = keeps_sign(self.config.output, on_volumes=False)
            write_harmonised_table(output, pd.DataFrame(who(table)), frame, encoding, change, keep_sign, say)
        return self._embeddings(table, outputs)

    def harmonise_features(
        self, uncalibrated: np.ndarray, site: np.ndarray, form: str
    ) -> tuple[Outputs, np.ndarray | None]:
        """Calibrates and encodes a table's features, and computes the change that harmonising them makes.

        Args:
          uncalibrated: (N, F) encoded features.
          site: (N,) names of the sites, "" where unknown.
          form: "change", "decoded" or "none".

        Returns:
          The outputs of `encode` with N rows, and the (N, F) change to add to `uncalibrated`, in z-scores. The change
          is None if the form is "none" or there is no decoder. It is 0 where the calibration leaves a feature alone.
        """
        calibration = self.calibration
        assert calibration is None or isinstance(calibration, SiteCalibration)
        inputs = uncalibrated if calibration is None else calibration.apply(uncalibrated, site)
        parts, changes = [], []
        for start in range(0, len(inputs), TABLE_BATCH):
            here = slice(start, start + TABLE_BATCH)
            parts.append(self.encode(inputs[here]))
            if form != "none" and self.decode is not None:
                pooled = self.decode(parts[-1]["pooled_latent"])
                before = self.decode(parts[-1]["latent"]) if form == "change" else inputs[here]
                scale = self.change_scale if form == "change" else 1.0
                changes.append(pooled_change(uncalibrated[here], inputs[here], before, pooled, scale))
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not changes:
            return outputs, None
        change = np.concatenate(changes)
        return outputs, change if calibration is None else np.where(calibration.unchanged(site), 0.0, change)

    def _calibrated(self, volume: np.ndarray, site: str, predicted: list[str]) -> np.ndarray | None:
        """Returns a volume less its site's effects, None without a calibration.

        Without a calibrated site it is predicted, and the most probable one is appended to `predicted`.
        """
        if self.calibration is None:
            return None
        assert isinstance(self.calibration, VoxelCalibration)
        weights = self.calibration.weights(volume, site)
        if site not in self.calibration.sites:
            predicted.append(self.calibration.sites[int(np.argmax(weights))])
        return self.calibration.apply_weights(volume, weights)

    def _embeddings(self, table: ParticipantsTable, outputs: Outputs) -> pd.DataFrame:
        facts, first = self.facts, pd.DataFrame(who(table))
        first["site"] = named_sites(table, self.config.data.site_column)
        name = f"predicted_{facts.target_name}"
        if facts.target_classes:
            first[name] = np.array(facts.target_classes)[outputs["prediction"].argmax(axis=1)]
        else:
            scaled = outputs["prediction"][:, 0].astype(np.float64)
            first[name] = scaled * facts.scaling.target_deviation + facts.scaling.target_mean
        latent = pd.DataFrame(outputs["latent"]).add_prefix("l_")
        phi = pd.DataFrame(outputs["phi"]).add_prefix("phi_")
        return pd.concat([first, latent, phi], axis=1)
