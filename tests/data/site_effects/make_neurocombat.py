"""Makes neurocombat.json: a made-up table and what neuroCombat makes of it. Run where neuroCombat 0.2.12 is installed.

python tests/data/site_effects/make_neurocombat.py tests/data/site_effects/neurocombat.json
"""

import json
import pathlib
import sys

import numpy as np
import pandas as pd

int = int  # type: ignore[attr-defined]  # neuroCombat 0.2.12 uses this alias, which NumPy removed
from neuroCombat import neuroCombat, neuroCombatFromTraining  # type: ignore[import-not-found]  # noqa: E402

FEATURES = 10


def main(path: pathlib.Path) -> None:
    """Writes the table and the results, rounded to six decimals."""
    random = np.random.default_rng(7)
    sites = np.repeat(["A", "B", "C"], [18, 14, 9])
    age, dx = random.uniform(40, 80, len(sites)).round(1), random.integers(0, 2, len(sites))
    gain, shift = {"A": 1.0, "B": 1.6, "C": 0.8}, {site: random.normal(0, 1, FEATURES) for site in "ABC"}
    slope = 0.03 * np.linspace(-1, 1, FEATURES)
    inputs = np.stack(
        [
            2 + slope * (years - 60) + 0.5 * ill + shift[site] + gain[site] * random.normal(0, 1, FEATURES)
            for years, ill, site in zip(age, dx, sites, strict=True)
        ]
    ).round(5)
    new_sites, new_inputs = np.array(["B", "A", "C", "B", "C"]), random.normal(2, 1.5, (5, FEATURES)).round(5)
    table = pd.DataFrame({"site": sites, "age": age, "dx": dx})
    kept = {"categorical_cols": ["dx"], "continuous_cols": ["age"]}
    plain = neuroCombat(dat=inputs.T, covars=table, batch_col="site", **kept)
    results = {
        "plain": plain["data"].T,
        "reference": neuroCombat(dat=inputs.T, covars=table, batch_col="site", ref_batch="B", **kept)["data"].T,
        "no_covariates": neuroCombat(dat=inputs.T, covars=table[["site"]], batch_col="site")["data"].T,
        "new_rows": neuroCombatFromTraining(new_inputs.T, new_sites, plain["estimates"])["data"].T,
    }
    given = {"sites": sites, "age": age, "dx": dx, "inputs": inputs, "new_sites": new_sites, "new_inputs": new_inputs}
    made = given | {name: values.round(6) for name, values in results.items()}
    path.write_text(json.dumps({name: values.tolist() for name, values in made.items()}, separators=(",", ":")))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
