"""The properties of the training cohort that a trained model needs, stored in model.json."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from eqpool.config import OutputConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.shape import DataShape
from eqpool.data.tables.encoding import FeatureEncoding
from eqpool.data.tables.levels import same_labels
from eqpool.data.volumes.intensity_scale import CommonScale
from eqpool.data.volumes.read import VERSION as PREPARATION
from eqpool.errors import InputError
from eqpool.storage import files
from eqpool.storage.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """The properties of the training cohort on which the networks depend.

    Attributes:
      dataset, simulated: name of the cohort, and whether it is simulated.
      input_shape: shape of one input.
      site_names, covariate_names, target_name, target_classes, first_levels: as in `Cohort`. `first_levels` is empty
        for runs that predate its record.
      scaling: scaling of covariates and target.
      features: encoding of a table's columns; None for volumes and public tables.
      preparation: `eqpool.data.volumes.read.VERSION` at which the volumes were prepared; 0 without volumes, or for runs
        that predate its record.
      common_scale: common intensity scale of harmonised volumes; None without volumes, or for runs that predate it.
      is_aligned: whether the volumes were registered to the template.
    """

    dataset: str
    simulated: bool
    input_shape: tuple[int, ...]
    site_names: tuple[str, ...]
    covariate_names: tuple[str, ...]
    target_name: str
    target_classes: tuple[str, ...]
    scaling: Scaling
    features: FeatureEncoding | None
    preparation: int = 0
    first_levels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    common_scale: CommonScale | None = None
    is_aligned: bool = False

    @classmethod
    def of(cls, cohort: Cohort, scaling: Scaling, reference: str = "") -> "ModelFacts":
        """Returns the properties of a cohort.

        Args:
          cohort: training cohort.
          scaling: scaling of covariates and target.
          reference: site whose look the other sites take, "" for none. The common scale of volumes is this site's.

        Raises:
          InputError: the cohort is of volumes, and no training row is of the reference.
        """
        return cls(
            cohort.name,
            cohort.simulated,
            cohort.inputs.shape[1:],
            cohort.site_names,
            cohort.covariate_names,
            cohort.target_name,
            cohort.target_classes,
            scaling,
            None if cohort.table is None else cohort.table.encoding,
            PREPARATION if cohort.volumes is not None else 0,
            cohort.first_levels,
            _common_scale(cohort, reference),
            cohort.volumes is not None and cohort.volumes.alignment is not None,
        )

    @property
    def shape(self) -> DataShape:
        """The shape that the networks were built for. Nuisances are left out because no network depends on them."""
        return DataShape(self.input_shape, len(self.covariate_names), len(self.site_names), len(self.target_classes))

    @property
    def on_volumes(self) -> bool:
        """Whether the inputs are volumes."""
        return len(self.input_shape) == 3

    def output_scale(self, output: OutputConfig) -> CommonScale | None:
        """Returns the scale on which harmonised volumes are written, None for the units of each scan.

        Raises:
          InputError: a common scale is asked for, and the run has none.
        """
        if output.scale == "as_scanned":
            return None
        if self.common_scale is None:
            raise InputError(
                f'config.output.scale = "{output.scale}": the run is of an earlier version and has no common scale, '
                'expected "as_scanned"; train it again for a common scale'
            )
        return self.common_scale

    def check_preparation(self, folder: RunFolder) -> None:
        """Raises `InputError`, naming `folder`, if another version prepared the run's volumes."""
        if self.on_volumes and self.preparation != PREPARATION:
            before = f"version {self.preparation}" if self.preparation else "an earlier version"
            raise InputError(
                f"--workdir={folder.path}: trained on volumes prepared by {before} of the preparation, and this eqpool "
                f"has version {PREPARATION}, which smooths volumes finer than the grid, so that its networks would see "
                "new volumes otherwise than those they learnt from; train the run again, or use the eqpool that "
                "trained it"
            )

    def write(self, folder: RunFolder) -> None:
        """Writes model.json."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["scaling"] = self.scaling.to_dict()
        plain["features"] = None if self.features is None else self.features.to_dict()
        plain["common_scale"] = None if self.common_scale is None else dataclasses.asdict(self.common_scale)
        files.write_json(folder.model_file, plain)

    @classmethod
    def read(cls, folder: RunFolder) -> "ModelFacts":
        """Reads model.json.

        Raises:
          InputError: the file is missing, or `write` did not make it.
        """
        path = folder.model_file
        if not path.is_file():
            raise InputError(f"--workdir={folder.path}: model.json not found; expected the folder of a finished run")
        values = files.read_json(path)
        try:
            values["scaling"] = Scaling.from_dict(values["scaling"])
            values["features"] = values["features"] and FeatureEncoding.from_dict(values["features"])
            values["common_scale"] = values.get("common_scale") and CommonScale(**values["common_scale"])
            values |= {name: tuple(values[name]) for name in ("input_shape", "covariate_names")}
            values["first_levels"] = {str(name): str(one) for name, one in values.get("first_levels", {}).items()}
            values |= {name: same_labels(values[name], f"{path}, {name}") for name in ("site_names", "target_classes")}
            return cls(**values)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{path}: expected what eqpool wrote; it lacks or misnames {error}") from None


def _common_scale(cohort: Cohort, reference: str) -> CommonScale | None:
    """Returns the common scale of volumes: that of the reference's training rows, or of all training rows."""
    if cohort.volumes is None:
        return None
    rows = cohort.rows("train")
    if reference:
        rows = rows[cohort.site_labels[rows] == reference]
    if not rows.size:
        found = ", ".join(np.unique(cohort.site_labels[cohort.rows("train")]).tolist())
        raise InputError(f'config.data.reference = "{reference}": expected a site of the training rows, {found}')
    return CommonScale.fit(cohort.volumes.tissue_mean[rows], cohort.volumes.tissue_deviation[rows], reference)
