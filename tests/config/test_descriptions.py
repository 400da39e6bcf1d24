from eqpool.config.descriptions import describe_keys
from eqpool.config.schema import RunConfig, to_dict


def flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_every_key_of_a_config_is_described():
    described = describe_keys()
    assert list(described) == list(flat(to_dict(RunConfig())))
    assert [key for key, text in described.items() if len(text.split()) < 2] == []


def test_a_comment_belongs_to_the_field_beside_or_below_it():
    described = describe_keys()
    assert described["data.site_column"] == "column of the scanner or site"
    assert described["output.scale"].startswith("Intensity scale of harmonised volumes. common:")
    assert described["stage_two.epochs"] == described["istn.epochs"] == "passes over the training rows"  # inherited
    assert "prediction" not in described["stage_one.mmd_weight"]
