"""The properties of a cohort that determine the sizes of networks."""

import dataclasses

from eqpool.data.cohort import Cohort


@dataclasses.dataclass(frozen=True)
class DataShape:
    """The properties of a cohort that, with the config, determine the sizes of a method's networks.

    Attributes:
      inputs: shape of one input: (F,) for features, two axes for an image, three for a volume.
      covariates: number of covariates, C.
      sites: number of sites.
      classes: number of classes of the target, 0 for a numeric target.
      nuisances: number of levels of each nuisance.
    """

    inputs: tuple[int, ...]
    covariates: int
    sites: int
    classes: int
    nuisances: tuple[int, ...] = ()

    @classmethod
    def of(cls, cohort: Cohort) -> "DataShape":
        """Returns the shape of a cohort."""
        return cls(
            inputs=tuple(cohort.inputs.shape[1:]),
            covariates=cohort.covariates.shape[1],
            sites=len(cohort.site_names),
            classes=len(cohort.target_classes),
            nuisances=tuple(map(len, cohort.nuisance_levels)),
        )

    @property
    def outputs(self) -> int:
        """Returns the width of a predictor's output: one logit for each class, or 1 for a numeric target."""
        return max(self.classes, 1)
