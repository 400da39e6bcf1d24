"""The README's examples run as they stand."""

import pathlib
import re

import jax
import numpy as np

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
TABLE, *BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_table_example_pools_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(TABLE, "README.md", "exec"), names)
    site, harmonised = names["site"], names["harmonised"]
    gap = np.abs(harmonised[site == "GE"].mean(axis=0) - harmonised[site != "GE"].mean(axis=0))
    assert names["phi"].shape == (60, 6) and gap.mean() < 0.4
    assert (tmp_path / "pooling.npz").exists()


def test_the_loss_example_prints_a_gradients_shape(capsys):
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    assert capsys.readouterr().out == "(32, 120)\n"


def test_the_pmap_example_gives_the_global_loss():
    import eqpool

    generator = np.random.default_rng(0)
    phi = generator.normal(size=(32, 16)).astype(np.float32)
    site = generator.integers(0, 3, 32).astype(np.int32)

    def on_each_device(phi, site):
        return eval(BLOCKS[1].split("#")[0], {"eqpool": eqpool, "phi": phi, "site": site})

    split = jax.pmap(on_each_device, axis_name="devices")(phi.reshape(8, 4, 16), site.reshape(8, 4))
    np.testing.assert_allclose(split, np.full(8, eqpool.mmd(phi, site, num_sites=3)), rtol=1e-5)


def test_the_commands_name_files_that_exist():
    root = pathlib.Path(__file__).parent.parent
    for path in set(re.findall(r"configs/\w+\.py|docs/[\w.]+|CHANGELOG\.md", README)):
        assert (root / path).exists(), path
