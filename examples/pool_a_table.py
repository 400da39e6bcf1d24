# %% [markdown]
# # Pool a table of four scanners
#
# `python examples/pool_a_table.py` needs no data. It makes up a table of cortical thickness, SIMULATED, in which four
# scanners see people of different ages. It pools the table, measures in held-out people how well scanner and age are
# still predicted, and draws the result as pool_a_table.png. The cells run in any editor that knows `# %%`.

# %%
import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eqpool.estimator import EquivariantPooling
from eqpool.evaluate.readout import read_covariate
from eqpool.report.style import legend_below, scatter_sites

PEOPLE, EPOCHS = 600, 60  # the test of this file takes fewer

# %% [markdown]
# ## A table to pool
#
# Age thins the cortex. Every scanner adds its own offset and noise to each of twelve regions; ages overlap in part.

# %%
random = np.random.default_rng(0)
SCANNERS = ["GE", "Philips", "Siemens A", "Siemens B"]
scanner = random.integers(0, 4, PEOPLE)
age = np.clip(random.normal(np.array([35, 45, 55, 65])[scanner], 10), 18, 90)
slope = random.uniform(-0.012, -0.004, 12)  # mm a year
offset, noise = random.normal(0, 0.15, (4, 12)), random.uniform(0.08, 0.16, (4, 1))
thickness = 2.8 + np.outer(age - 50, slope) + offset[scanner] + noise[scanner] * random.normal(size=(PEOPLE, 12))
site = np.array(SCANNERS)[scanner]
train, test = np.split(random.permutation(PEOPLE), [PEOPLE * 3 // 4])

# %% [markdown]
# ## Pool
#
# The fit uses the training people alone. New people do not need an age.

# %%
pooling = EquivariantPooling(latent_dim=12, epochs=EPOCHS)
pooling.fit(thickness[train], site=site[train], covariates=age[train])
harmonised = pooling.harmonise(thickness, site=site)  # millimetres again
phi = pooling.transform(thickness, site=site)

# %% [markdown]
# ## What is left of scanner and age, in people that pooling never saw
#
# The scanners' ages differ, so age alone predicts the scanner to some extent. This is the floor: features that keep the
# effect of age cannot hide the scanner any better.


# %%
def site_accuracy(features: np.ndarray) -> float:
    """Balanced accuracy of a logistic regression that predicts the site of held-out rows; chance is 0.25."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
    return balanced_accuracy_score(site[test], probe.fit(features[train], site[train]).predict(features[test]))


def age_read(features: np.ndarray) -> np.ndarray:
    """Age of held-out rows, predicted by a ridge regression."""
    return read_covariate(features[train], age[train], features[test])


scores = {
    name: (site_accuracy(features), r2_score(age[test], age_read(features)))
    for name, features in {"raw": thickness, "harmonised": harmonised, "Phi": phi}.items()
}
floor = site_accuracy(age[:, None])
print(f"{'':12} site accuracy  age R^2   (SIMULATED data; chance 0.25, from age {floor:.2f})")
for name, (accuracy, read) in scores.items():
    print(f"{name:12} {accuracy:13.2f} {read:8.2f}")

# %% [markdown]
# ## The picture
#
# One region against age. Before, the scanners lie apart. After, all of them follow one line.

# %%
region = int(np.argmax(np.ptp(offset, axis=0)))  # where scanners differ most
figure = Figure(figsize=(9, 4.2), layout="constrained")
panels = figure.subplots(1, 2, sharey=True)
for axes, (name, when, values) in zip(
    panels, [("raw", "Before", thickness), ("harmonised", "After", harmonised)], strict=True
):
    scatter_sites(axes, np.stack([age[test], values[test, region]], axis=1), site[test], SCANNERS)
    accuracy, read = scores[name]
    axes.set(title=f"{when}\nscanner predicted for {accuracy:.0%}, R$^2$ of age {read:.2f}", xlabel="age, years")
panels[0].set_ylabel(f"thickness of region {region}, mm")
said = f"SIMULATED DATA, held-out people. By chance the scanner is predicted for 25%, from age alone for {floor:.0%}."
figure.suptitle(said, x=0.01, ha="left", fontsize=9)
legend_below(figure, panels[0], SCANNERS)
figure.savefig("pool_a_table.png", dpi=150)
print("drew pool_a_table.png")
