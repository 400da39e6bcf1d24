"""The decoder's linear part against scikit-learn, and in a finished run."""

import shutil

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from eqpool.data.load import load_cohort
from eqpool.methods.base import load_trained
from eqpool.methods.linear_decoder import complete_decoder, fit_ridge
from eqpool.storage.files import write_arrays
from eqpool.storage.run_folder import RunFolder
from tests.conftest import tiny_config


@pytest.mark.parametrize("penalty", [1e-3, 1.0, 100.0])
def test_the_sums_give_scikit_learns_ridge(penalty):
    random = np.random.default_rng(0)
    latent, residual = random.normal(size=(50, 6)) + 3, random.normal(size=(50, 11))
    residual += latent @ random.normal(size=(6, 11)) + 5
    expected = Ridge(alpha=penalty).fit(latent, residual)
    part = fit_ridge(zip(np.array_split(latent, 7), np.array_split(residual, 7), strict=True), penalty)
    np.testing.assert_allclose(part.weight, expected.coef_.T, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(part.offset, expected.intercept_, rtol=1e-6)


def test_a_run_decodes_its_training_rows_better_with_it_and_fits_it_once(trained_volumes, tmp_path):
    cohort = load_cohort(tiny_config(trained_volumes.parent).data, trained_volumes.parent / "cache", progress=False)
    trained = load_trained(RunFolder(trained_volumes))
    mask, train = cohort.volumes.grid.mask, cohort.rows("train")
    part = dict(np.load(RunFolder(trained_volumes).linear_decoder_file))
    volumes = np.array(cohort.inputs[train])
    latent = trained.encode(volumes)["latent"]
    decoded = trained.decode(latent)
    network = decoded[:, mask] - latent @ part["weight"] - part["offset"]
    expected = Ridge(alpha=trained.config.model.decoder_ridge).fit(latent, volumes[:, mask] - network)
    np.testing.assert_allclose(part["weight"], expected.coef_.T, rtol=1e-2, atol=1e-4)
    errors = [np.mean((values - volumes[:, mask]) ** 2) for values in (decoded[:, mask], network)]
    assert errors[0] < errors[1]
    folder = RunFolder(shutil.copytree(trained_volumes, tmp_path / "run", ignore=shutil.ignore_patterns("derivatives")))
    write_arrays(folder.linear_decoder_file, part | {"offset": part["offset"] + 1})
    again = complete_decoder(folder, load_trained(folder), cohort).decode(latent)
    np.testing.assert_allclose(
        again[:, mask], decoded[:, mask] + 1, atol=1e-4
    )  # of the file, which a fit would replace
