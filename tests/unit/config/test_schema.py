"""The JSON Schema of the YAML accepts what the strict reader accepts, and refuses what that refuses."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marlin_ckpt.arguments import (
    DefaultCheckpointerArguments,
    ImportedModuleArguments,
    SpiralArguments,
    TextArguments,
    TrainerArguments,
)
from marlin_ckpt.config import read_config
from marlin_ckpt.config.keys import yaml_fields
from marlin_ckpt.config.schema import is_schema, schema
from marlin_ckpt.errors import ConfigError
from marlin_ckpt.keep import BestArguments, RetentionArguments
from marlin_ckpt.remote import RemoteArguments
from tests.support.folders import REPOSITORY
from tests.support.yaml_values import loaded

SCHEMA = schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
# What no schema can say: rules on several fields, on what a text means, and on what is no character.
BEYOND = (
    "expected a URL",
    "expected auto, or whole MiB",
    "expected no user or password",
    "must be a multiple of heads",
    "must be below 1",
    "must stay inside load_dir",
    "are missing, so that nothing would be kept",
    "expected a time",
    "expected a size",
    "expected one of text, spiral or my_package",
)

_OF_ANOTHER_STORE = ":// is not known here"


def faults_of(document: Any, folder: Any) -> list[str]:
    """What the reader has against a document, written as JSON, which is YAML."""
    path = folder / "run.yaml"
    path.write_text(json.dumps(document))
    try:
        read_config(path)
    except ConfigError as error:
        return [fault.message for fault in error.faults]
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("configurations")


def test_it_is_a_schema_of_draft_2020_12_in_which_no_section_takes_other_keys():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    assert is_schema(json.loads(json.dumps(SCHEMA)))
    sections = [SCHEMA, *(SCHEMA["$defs"][name] for name in SCHEMA["$defs"] if name != "module")]
    assert all(one["additionalProperties"] is False for one in sections)
    assert len(sections) == 6


KINDS = {
    "module-text": TextArguments,
    "module-spiral": SpiralArguments,
    "module-own": ImportedModuleArguments,
    "trainer": TrainerArguments,
    "checkpointer": DefaultCheckpointerArguments,
}


@pytest.mark.parametrize("name", KINDS)
def test_each_key_is_described_in_the_words_of_the_reference(name):
    found = SCHEMA["$defs"][name]["properties"]
    assert list(found) == [field.name for field in yaml_fields(KINDS[name])]
    assert all(one["description"].endswith(".") for one in found.values())


@pytest.mark.parametrize("name", sorted(path.name for path in (REPOSITORY / "configs").glob("*.yaml")))
def test_each_shipped_file_fits(name):
    text = (REPOSITORY / "configs" / name).read_text(encoding="utf-8")
    assert [one.message for one in VALIDATOR.iter_errors(loaded(text))] == []


SPIRAL, TEXT = {"name": "spiral"}, {"name": "text", "files": ["a"]}
BEST = {"best": {"metric": "m"}}
PLACES = [
    *((("module", one.name), {"module": TEXT}) for one in yaml_fields(TextArguments)),
    *((("module", one.name), {"module": {**SPIRAL}}) for one in yaml_fields(SpiralArguments)),
    *((("module", one.name), {"module": {"name": "a.b:C"}}) for one in yaml_fields(ImportedModuleArguments)),
    *((("trainer", one.name), {"module": SPIRAL, "trainer": {}}) for one in yaml_fields(TrainerArguments)),
    *(
        (("checkpointer", one.name), {"module": SPIRAL, "checkpointer": {}})
        for one in yaml_fields(DefaultCheckpointerArguments)
    ),
    *(
        (("checkpointer", "keep", one.name), {"module": SPIRAL, "checkpointer": {"keep": {"last": 1}}})
        for one in yaml_fields(RetentionArguments)
    ),
    *(
        (("checkpointer", "keep", "best", one.name), {"module": SPIRAL, "checkpointer": {"keep": BEST}})
        for one in yaml_fields(BestArguments)
    ),
    *(
        (("checkpointer", "remote", one.name), {"module": SPIRAL, "checkpointer": {"remote": {}}})
        for one in yaml_fields(RemoteArguments)
    ),
    (("module",), {}),
    (("trainer",), {"module": SPIRAL}),
    (("checkpointer",), {"module": SPIRAL}),
    (("ckpt",), {"module": SPIRAL}),
    (("other",), {"module": SPIRAL}),
    (("trainer", "other"), {"module": SPIRAL, "trainer": {}}),
]  # fmt: skip
_WORDS = [
    "text",
    "spiral",
    "a:B",
    "wait",
    "skip",
    "auto",
    "min",
    "epoch",
    "7d",
    "5GB",
    ".pt",
    "",
    "DEBUG",
    "sp",
]
_NUMBERS = st.integers(-3, 2**64) | st.floats(-2, 1e9).filter(lambda one: not one.is_integer())
_LEAVES = st.none() | st.booleans() | _NUMBERS | st.sampled_from(_WORDS) | st.text("ab0./: -", max_size=6)
_RULE = st.fixed_dictionaries({"metric": _LEAVES}, optional={"mode": _LEAVES, "count": _LEAVES})
VALUES = (
    _LEAVES
    | st.lists(_LEAVES | _RULE, max_size=2)
    | st.dictionaries(st.sampled_from(["name", "last", "a"]), _LEAVES, max_size=2)
    | _RULE
)


@given(st.sampled_from(PLACES), VALUES)
@example(
    (("checkpointer", "keep", "best"), PLACES[-1][1] | {"checkpointer": {"keep": {}}}), [{"metric": "m"}]
)
@example((("checkpointer", "keep", "best"), PLACES[-1][1] | {"checkpointer": {"keep": {}}}), [None])
def test_it_accepts_and_refuses_the_same_values_as_the_reader(folder, place, value):
    path, base = place
    document = json.loads(json.dumps(base))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    refused = faults_of(document, folder)
    errors = [f"{one.json_path}: {one.message}" for one in VALIDATOR.iter_errors(document)]
    if not refused:
        assert errors == []
    elif not all(message.startswith(BEYOND) or _OF_ANOTHER_STORE in message for message in refused):
        assert errors != [], refused


def test_an_integer_with_a_point_is_what_it_cannot_refuse(folder):
    document = {"module": SPIRAL, "trainer": {"epochs": 2.0}}
    assert faults_of(document, folder) == ["expected an integer, not '2.0'"]
    assert VALIDATOR.is_valid(document)
    assert not VALIDATOR.is_valid({"module": SPIRAL, "trainer": {"epochs": 2.5}})
    assert math.isclose(SCHEMA["$defs"]["checkpointer"]["properties"]["max_overhead"]["maximum"], 0.5)
