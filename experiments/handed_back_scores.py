"""What is predictable from the volumes of a cohort, as a run's scorecard measures it."""

from collections.abc import Iterable

from eqpool.config import DataConfig, EvaluateConfig, RunConfig
from eqpool.data.cohort import Cohort
from eqpool.methods.handed_back import score_volumes
from eqpool.methods.scored_voxels import CALIBRATED, ScoredVoxels


def score_inputs(cohort: Cohort, config: DataConfig, keys: Iterable[str]) -> dict[str, dict[str, float]]:
    """Returns the scores `keys` of each version of the held-out rows, as far as a version has them.

    The versions are raw, ComBat, the site calibration if the cohort has one, and the truth if it is known. No site is
    shuffled.
    """
    run = RunConfig(data=config, evaluate=EvaluateConfig(scorecard_permutations=0))
    voxels = ScoredVoxels(cohort, run.seed, CALIBRATED)
    voxels.take_inputs(cohort, squash=config.squash, workers=2)
    versions = score_volumes(cohort, run, voxels)["versions"]
    return {name: {key: one[key] for key in keys if key in one} for name, one in versions.items()}
