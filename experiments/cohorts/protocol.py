"""Evaluates one method on one cohort. Each fold is stored as soon as it is computed."""

import functools
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import StratifiedKFold

from experiments.cohorts.cohort import Table, folds
from experiments.cohorts.methods import represent
from experiments.cohorts.probes import SITE_PROBES, told_age, told_label, told_sites, without_covariates
from experiments.runner import stored

_PERMUTATIONS = 999
PROBES_VERSION = 2  # of `probes`. Stored predictions of older versions are not read.
Told = dict[str, np.ndarray]  # "<representation>/<variable>" -> predictions for the fold's held-out rows


def evaluate(method: str, table: Table, folder: pathlib.Path, count: int, seed: int, epochs: int) -> dict[str, Any]:
    """Returns the probes' predictions for each row when held out, for every representation of a method, by name.

    Folds that were already computed with the same settings and features are read from `folder`. One file contains the
    method's features, and another the probes' predictions. The result's `commits` are the commits that computed them.
    """
    splits = folds(table, count, seed)
    parts, chosen, commits = [], [], set()
    for index, (train, test) in enumerate(splits):
        start = folder / table.name / method / f"{fingerprint(table, train, epochs)}_fold{index}"
        made = stored(
            start.with_name(f"{start.name}_features.npz"),
            functools.partial(_represented, method, table, train, epochs),
        )
        chosen.append(json.loads(str(made.pop("chosen"))))
        commits.add(str(made.pop("commit")))
        probed = start.with_name(f"{start.name}_told{PROBES_VERSION}.npz")
        parts.append(stored(probed, functools.partial(_told, table, made, train, test)))
        commits.add(str(parts[-1].pop("commit")))
    joined = {name: _by_row([part[name] for part in parts], splits) for name in parts[0]}
    names = dict.fromkeys(name.split("/")[0] for name in joined)
    results = {}
    for name in names:
        told = {key.split("/")[1]: value for key, value in joined.items() if key.startswith(f"{name}/")}
        if name.endswith(" *"):
            features = told.pop("features")
            digest = hashlib.sha256(features.tobytes() + table.site.tobytes()).hexdigest()[:12]
            path = folder / table.name / method / f"{digest}_within{PROBES_VERSION}_{count}_{seed}.npz"
            within = stored(path, functools.partial(_within, table, features, count, seed))
            commits.add(str(within.pop("commit")))
            told |= within
        results[name] = told
    return {"told": results, "chosen": chosen, "commits": commits}


def scores(table: Table, told: Told, raw: Told) -> dict[str, Any]:
    """Returns the numbers of one line of the table. `raw` has the predictions from raw features, for paired tests."""
    probed, age = table.probed, table.covariates[:, 0]
    result: dict[str, Any] = {"chance": 1 / len(np.unique(table.site[probed]))}
    for design in ("transfer", "within"):
        predictions = {name: told[f"{design}_{name}"] for name in SITE_PROBES if f"{design}_{name}" in told}
        if predictions:
            result |= {f"site_{design}_{key}": value for key, value in _site(table, predictions).items()}
    errors, before = np.abs(told["age"] - age), np.abs(raw["age"] - age)
    result |= {"age_mae": float(errors.mean()), "age_r2": float(r2_score(age, told["age"]))}
    result["age_p_against_raw"] = _sign_flips(errors - before)
    for name, label in table.labels.items():
        right, right_before = told[name] == label, raw[name] == label
        result[f"{name}_balanced_accuracy"] = float(balanced_accuracy_score(label, told[name]))
        result[f"{name}_accuracy"] = float(right.mean())
        result[f"{name}_p"] = _permuted(label, {name: told[name]})
        result[f"{name}_p_against_raw"] = _sign_flips(right_before.astype(float) - right)
    return result


def _represented(method: str, table: Table, train: np.ndarray, epochs: int) -> Told:
    representations, chosen = represent(method, table, train, epochs)
    made = {name: values.astype(np.float32) for name, values in representations.items()}
    return made | {"chosen": np.array(json.dumps(chosen))}


def _told(table: Table, representations: Told, train: np.ndarray, test: np.ndarray) -> Told:
    told: Told = {}
    for name, values in representations.items():
        features = values.astype(np.float64)
        residual = without_covariates(features, table.covariates, train)
        probed = train[table.probed[train]]
        for probe, sites in told_sites(residual, table.site, probed, test).items():
            told[f"{name}/transfer_{probe}"] = sites
        told[f"{name}/age"] = told_age(features, table.covariates[:, 0], train, test)
        for label, known in table.labels.items():
            told[f"{name}/{label}"] = told_label(features, known, train, test)
        if name.endswith(" *"):
            told[f"{name}/features"] = features[test]
    return told


def _within(table: Table, features: np.ndarray, count: int, seed: int) -> Told:
    """Cross-validates the site probes among rows that were harmonised by models not trained on them."""
    told = {f"within_{name}": np.full(len(table.site), -1) for name in SITE_PROBES}
    rows = np.flatnonzero(table.probed)
    splits = StratifiedKFold(count, shuffle=True, random_state=seed + 1).split(rows, table.site[rows])
    for inner, held_out in splits:
        train, test = rows[inner], rows[held_out]
        residual = without_covariates(features, table.covariates, train)
        for name, sites in told_sites(residual, table.site, train, test).items():
            told[f"within_{name}"][test] = sites
    return told


def _site(table: Table, predictions: Told) -> dict[str, Any]:
    """Returns the strongest probe and its p-value, from the strongest probe under permuted sites."""
    rows = table.probed
    reached = {name: balanced_accuracy_score(table.site[rows], told[rows]) for name, told in predictions.items()}
    best = max(reached, key=reached.__getitem__)
    p_value = _permuted(table.site[rows], {name: told[rows] for name, told in predictions.items()})
    return {"strongest": reached[best], "probe": best, "p": p_value, "all": reached}


def _permuted(truth: np.ndarray, predictions: Told) -> float:
    """Returns the p-value of the largest balanced accuracy among predictions of held-out rows, by permuted truth."""
    generator = np.random.default_rng(0)
    classes, index = np.unique(truth, return_inverse=True)
    size = np.bincount(index)

    def largest(order: np.ndarray) -> float:
        shuffled = index[order]
        hits = (np.bincount(shuffled, told == classes[shuffled], len(classes)) for told in predictions.values())
        return max(float(np.mean(hit / size)) for hit in hits)

    observed = largest(np.arange(len(index)))
    drawn = [largest(generator.permutation(len(index))) for _ in range(_PERMUTATIONS)]
    return (1 + sum(value >= observed - 1e-12 for value in drawn)) / (1 + _PERMUTATIONS)


def _sign_flips(differences: np.ndarray) -> float:
    """Returns the one-sided p-value of a sign-flip test for a mean of paired differences above 0 (worse than raw)."""
    generator = np.random.default_rng(0)
    signs = generator.choice([-1.0, 1.0], (_PERMUTATIONS, len(differences)))
    drawn = signs @ differences / len(differences)
    return float((1 + np.sum(drawn >= differences.mean() - 1e-12)) / (1 + _PERMUTATIONS))


def _by_row(parts: list[np.ndarray], splits: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    joined = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    for part, (_, test) in zip(parts, splits, strict=True):
        joined[test] = part
    return joined


def fingerprint(table: Table, train: np.ndarray, epochs: int) -> str:
    """Returns a hash of a cohort's features, a fold's training rows and the networks' epochs."""
    digest = hashlib.sha256(np.nan_to_num(table.features).tobytes() + train.tobytes() + str(epochs).encode())
    return digest.hexdigest()[:12]
