"""The accuracy that the strongest probe of the site reaches by chance: the same probes on shuffled sites."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.data.splits import target_levels
from eqpool.evaluate.cores import map_on_cores
from eqpool.evaluate.permutations import permute_subjects
from eqpool.evaluate.scored_rows import ScoredRows
from eqpool.evaluate.site_probes import SiteFeatures, SitePrediction, strongest
from eqpool.storage.progress import track


def shuffled_accuracies(
    rows: ScoredRows, features: SiteFeatures, designs: dict[str, str], num_folds: int, permutations: int
) -> dict[str, np.ndarray]:
    """Returns the balanced accuracies of the strongest probe after shuffling the sites.

    The strongest of several probes lies above one over the sites even if the site is not predictable, the further the
    fewer rows there are. These accuracies are its null distribution. Sites are exchanged between whole subjects within
    the levels of the target, whose frequencies may differ between sites, and within the training and held-out rows. The
    principal components stay, because they do not depend on the sites.

    Args:
      rows: who the N scored rows are.
      features: features of these rows.
      designs: design by the name of its score, "" for the strongest probe of both designs.
      num_folds: folds of the cross-validation.
      permutations: number P of permutations.

    Returns:
      Accuracies by the name of the score, at most P each, without scores that no permutation has. A permutation that
      lacks a design, as shuffled sites may leave too few people for folds, counts for no score: the strongest of fewer
      probes lies lower.
    """
    train_site, test_site = rows.site[rows.train], rows.site[rows.test]
    counted = np.zeros(len(test_site), bool)
    counted[features.inside] = True  # the others are of sites with one subject, and keep theirs
    levels = target_levels(rows.target, rows.target_classes)
    people = np.unique(rows.subject, return_inverse=True)[1]
    sites = []
    for key in jax.random.split(jax.random.key(0), permutations):
        train_key, test_key = jax.random.split(key)
        train_order = _order(train_key, people[rows.train], train_site >= 0, levels[rows.train])
        test_order = _order(test_key, people[rows.test], counted, levels[rows.test])
        sites.append((train_site[train_order], test_site[test_order]))
    predictions_of = map_on_cores(functools.partial(_predict, features, num_folds), sites)
    shuffled = list(track(predictions_of, "Shuffling the sites", unit="permutation", total=permutations))
    present = {one.design for predictions in shuffled for one in predictions}
    whole = [predictions for predictions in shuffled if present and {one.design for one in predictions} == present]
    return {
        name: np.array([strongest(predictions, design).accuracy for predictions in whole])
        for name, design in designs.items()
        if whole and (not design or design in present)
    }


def _predict(features: SiteFeatures, num_folds: int, sites: tuple[np.ndarray, np.ndarray]) -> list[SitePrediction]:
    return features.predict(*sites, num_folds)


def _order(key: jax.Array, people: np.ndarray, counted: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return np.asarray(permute_subjects(key, jnp.asarray(people), jnp.asarray(counted), levels))
