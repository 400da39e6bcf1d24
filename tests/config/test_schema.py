"""Config checks: every error names the key, the value and what was expected."""

import dataclasses
import importlib.util
import pathlib

import pytest

from eqpool.config import (
    OutputConfig,
    RunConfig,
    default_config,
    differing_keys,
    keeps_sign,
    parse_bandwidth,
    rotation_ranges,
    to_dict,
)
from eqpool.config.check import from_config_dict
from eqpool.errors import InputError

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))


def load(path: pathlib.Path, variant: str = ""):
    """A shipped config, with a table for those that are for a user's own data, which the command names."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant)
    if config.data.dataset == "participants":
        config.data.participants = "participants.tsv"
    return config


def test_defaults_round_trip():
    config = default_config()
    config.data.participants = "participants.tsv"
    frozen = from_config_dict(config)
    assert frozen.model == RunConfig().model
    assert to_dict(frozen) == config.to_dict()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("variant", ["", "paper"])
def test_shipped_configs_are_valid_and_say_what_they_need(path, variant):
    config = from_config_dict(load(path, variant))
    assert config.name.startswith(path.stem)
    head = path.read_text().split('"""')[1]
    assert f"--config=configs/{path.name}" in head
    assert "Command:" in head and "Needs:" in head


def test_the_paper_variant_of_adni_is_the_papers_protocol():
    config = from_config_dict(load(CONFIGS[0].parent / "adni.py", "paper"))
    assert (config.data.grid, config.stage_one.epochs, config.stage_one.batch_size) == ("mni_2mm", 150, 256)
    assert (config.stage_one.learning_rate, config.model.latent_dim) == (3e-4, 64)
    assert (config.model.channels, config.model.blocks) == ((16, 16, 32, 64), (2, 2, 2, 2))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("stage_one.epochs", -1, "config.stage_one.epochs = -1: expected at least 0"),
        ("stage_one.epochs", 1.5, "config.stage_one.epochs = 1.5: expected a whole number"),
        ("seed", True, "config.seed = True: expected a whole number"),
        ("method", "our", "config.method = 'our': expected one of ours, naive"),
        ("data.test_fraction", 0.95, "config.data.test_fraction = 0.95: expected at least 0 and at most 0.9"),
        ("model.channels", (16, 0), "config.model.channels = (16, 0): expected positive whole numbers"),
        ("stage_two.bandwidth", "wide", 'config.stage_two.bandwidth = "wide": expected positive numbers'),
        ("output.change_scale", "most", 'config.output.change_scale = "most": expected "auto", or a number'),
        ("output.change_scale", "1.5", 'config.output.change_scale = "1.5": expected "auto", or a number'),
        ("stage_two.erase_site", "all", "config.stage_two.erase_site = 'all': expected one of none, conditional"),
        ("model.blocks", (2, 2), "config.model.blocks = (2, 2): expected as many entries"),
        ("data.participants", "", 'config.data.participants = "": expected the path'),
        ("model.tau_steps", 4, 'config.model.tau_steps = 4: expected 0 unless config.model.tau = "covariate"'),
        ("model.code_dim", 30, "config.model.code_dim = 30: expected below config.model.latent_dim = 30"),
        ("model.code_levels", 4, "config.model.code_levels = 4: expected 0, or at least 2 with"),
        ("data.target_domain", "thin", 'config.data.target_domain = "thin": expected another than source_domain'),
        ("class_weights", "even", "config.class_weights = 'even': expected one of equal, balanced"),
        ("data.dataset", "morpho_mnist", "morpho_mnist has no covariate"),
        ("cache_dir", "gs://bucket/cache", "config.cache_dir = gs://bucket/cache: an address, expected a path"),
    ],
)
def test_a_bad_value_is_named(key, value, expected):
    config = default_config()
    config.data.participants = "participants.tsv"
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError) as caught:
        from_config_dict(config)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_covariate_may_have_its_own_range():
    model = RunConfig().model
    assert rotation_ranges(model, 1) == (3.0,)
    assert rotation_ranges(model, 2) == (3.0, 3.0)
    own = dataclasses.replace(model, rotation_ranges="3, 0.5")
    assert rotation_ranges(own, 2) == (3.0, 0.5)
    for config, count, message in (
        (own, 3, r'rotation_ranges = "3, 0.5": expected 3 numbers'),
        (dataclasses.replace(model, rotation_ranges="3,-1"), 2, "expected 2 numbers above 0 and at most pi"),
        (
            dataclasses.replace(model, latent_dim=4),
            3,
            "latent_dim = 4: 3 covariates need a plane each, expected at least 6",
        ),
    ):
        with pytest.raises(InputError, match=message):
            rotation_ranges(config, count)


def test_an_unknown_key_suggests_the_nearest():
    config = default_config()
    with config.unlocked():
        config.stage_one.epoch = 3
    with pytest.raises(InputError, match="config.stage_one.epoch: no such key; did you mean config.stage_one.epochs?"):
        from_config_dict(config)


def test_bandwidths():
    assert parse_bandwidth("1.5") == 1.5
    assert parse_bandwidth("0.5, 1") == (0.5, 1.0)
    assert parse_bandwidth("median") == "median"


def test_differing_keys_name_both_values():
    old, new = to_dict(RunConfig()), to_dict(RunConfig(seed=3))
    new["model"]["channels"] = list(new["model"]["channels"])  # as JSON gives it back
    assert list(differing_keys(old, new)) == ["config.seed (0 there, 3 now)"]


@pytest.mark.parametrize(
    ("keep_sign", "volumes", "table"), [("auto", True, False), ("on", True, True), ("off", False, False)]
)
def test_keep_sign_is_on_for_volumes_alone_unless_it_is_set(keep_sign, volumes, table):
    output = OutputConfig(keep_sign=keep_sign)
    assert keeps_sign(output, on_volumes=True) is volumes
    assert keeps_sign(output, on_volumes=False) is table
