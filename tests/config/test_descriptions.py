import re

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
    assert described["data.site_column"] == "Column with the site or scanner"
    assert described["output.scale"].startswith("Intensity scale of harmonised volumes. common:")
    assert described["stage_two.epochs"] == described["istn.epochs"] == "Passes over the training rows"  # inherited
    assert "prediction" not in described["stage_one.mmd_weight"]


def test_every_description_stands_alone():
    for key, text in describe_keys().items():
        assert not re.match(r"(of|in|for|see|as)\b", text, re.IGNORECASE), f"{key}: {text}"
        assert text[0].isupper() or re.match(r"[\w, *]+: ", text), f"{key}: {text}"  # or the values that it is about
