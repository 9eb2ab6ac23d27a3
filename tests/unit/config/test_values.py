"""What a scalar is read as: PyYAML's surprises never pass, and no value becomes another."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from marlin_ckpt import ConfigError
from marlin_ckpt.config import read_config

FIELDS = {  # by type: a section, a key, and a default that no case writes
    "int": ("module", "data_seed"),
    "float": ("trainer", "max_grad_norm"),
    "bool": ("checkpointer", "delete_existing_checkpoints"),
    "str": ("trainer", "device"),
    "path": ("checkpointer", "save_dir"),
    "int or nothing": ("trainer", "max_val_steps_per_epoch"),
    "path or nothing": ("checkpointer", "load_dir"),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("values") / "run.yaml"


def _read_typed(path: Path, kind: str, text: str):
    section, key = FIELDS[kind]
    head = "module:\n  name: spiral\n" if section == "module" else f"module: {{name: spiral}}\n{section}:\n"
    path.write_text(f"{head}  {key}: {text}\n")
    return getattr(getattr(read_config(path), section), key)


def _read_untyped(path: Path, text: str):
    path.write_text(f"module:\n  name: a:B\n  args:\n    x: {text}\n")
    return read_config(path).module.args["x"]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("float", "1e-3", 0.001),
        ("float", "1E3", 1000.0),
        ("float", "2.5e+2", 250.0),
        ("float", "3", 3.0),
        ("float", ".5", 0.5),
        ("float", "7.", 7.0),
        ("int", "+5", 5),
        ("int", "0", 0),
        ("bool", "true", True),
        ("bool", "TRUE", True),
        ("str", '"no"', "no"),
        ("str", "'12:30'", "12:30"),
        ("str", '"1e-3"', "1e-3"),
        ("str", "cuda:1", "cuda:1"),
        ("str", "no way", "no way"),
        ("path", "run-1", "run-1"),
        ("path", '"2024-01-01"', "2024-01-01"),
        ("path or nothing", "null", None),
        ("path or nothing", "", None),
        ("path or nothing", "~", None),
        ("path or nothing", '"~"', "~"),
        ("int or nothing", "null", None),
    ],
)
def test_a_scalar_is_read_for_the_type_of_its_field(path, kind, text, value):
    read = _read_typed(path, kind, text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("1e-3", "int, bool, str, path, int or nothing, path or nothing"),
        ("no", "int, float, bool, str, path, int or nothing, path or nothing"),
        ("Yes", "int, float, bool, str, path"),
        ("off", "int, float, bool, str, path"),
        ("true", "int, float, str, path, path or nothing"),
        ("12:30", "int, float, bool, str, path, int or nothing, path or nothing"),
        ("1:30.5", "int, float, bool, str, path"),
        ("010", "int, float, bool, str, path"),
        ("08", "int, float, bool, str, path"),
        ("0x10", "int, float, bool, str, path"),
        ("0o10", "int, float, bool, str, path"),
        ("0b11", "int, float, bool, str, path"),
        ("1_000", "bool, str, path"),
        ("1_", "int, float, bool, str, path"),
        ("1__0", "int, float, bool, str, path"),
        ("1.5_0", "int, float, bool, str, path"),
        (".inf", "int, float, bool, str, path"),
        ("-.INF", "int, float, bool, str, path"),
        (".nan", "int, float, bool, str, path"),
        ("1e999", "int, float, bool, str, path"),
        ("9" * 5000, "int, float, bool, str, path"),
        ("null", "int, float, bool, str, path"),
        ("~", "int, float, bool, str, path"),
        ("", "int, float, bool, str, path"),
        ("2024-01-01", "int, float, bool, str, path"),
        ("2024-01-01 12:00:00", "int, float, bool, str, path"),
        ("=", "int, float, bool, str, path"),
    ],
)
def test_a_surprise_of_pyyaml_never_passes_into_a_typed_field(path, text, kinds):
    for kind in kinds.split(", "):
        with pytest.raises(ConfigError) as caught:
            _read_typed(path, kind, text)
        (fault,) = caught.value.faults
        assert (fault.where, fault.field) == (f"{path}:3", ".".join(FIELDS[kind]))


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("!!str 5", "int, float, bool, int or nothing"),
        ("!!int '5'", "bool, str, path"),
        ("!!null x", "int, float, bool, str, path"),
        ("!!binary aGk=", "int, float, bool, str, path"),
        ("!mine x", "int, float, bool, str, path"),
    ],
)
def test_a_tag_never_makes_a_value_fit_a_field_of_another_type(path, text, kinds):
    for kind in kinds.split(", "):
        with pytest.raises(ConfigError) as caught:
            _read_typed(path, kind, text)
        assert [fault.where for fault in caught.value.faults] == [f"{path}:3"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-0.5", -0.5),
        ("true", True),
        ("null", None),
        ("word", "word"),
        ('"5"', "5"),
        ("'no'", "no"),
        ("{a: [1, b]}", {"a": [1, "b"]}),
    ],
)
def test_what_every_reader_reads_alike_is_read_in_the_arguments_of_an_imported_module(path, text, value):
    assert _read_untyped(path, text) == value


_SCALARS = "no Yes on 12:30 1:30.5 010 08 0x10 0o10 0b11 1_000 1_ 1__0 1.5_0 1e999 2024-01-01 ="
_SEVERAL_READINGS = [
    *_SCALARS.split(),
    *(
        "2024-01-01 12:00:00",
        "9" * 5000,
        "[1, [no]]",
        "{a: {<<: {b: 1}}}",
        "{0: cat}",
        "{no: x}",
        "{null: x}",
    ),
    *("{2024-01-01: x}", "{[1]: x}", "{a: 1, a: 2}"),
]
_TAGGED = ["!!binary aGk=", "!!set {a}", "!!omap [a: 1]", "!mine x", "!mine {a: 1}", "[!mine [1]]"]


@pytest.mark.parametrize("text", _SEVERAL_READINGS)
def test_what_readers_read_differently_is_refused_in_the_arguments_of_an_imported_module(path, text):
    with pytest.raises(ConfigError) as caught:
        _read_untyped(path, text)
    (fault,) = caught.value.faults
    assert fault.where == f"{path}:4"
    assert fault.field.startswith("module.args.x")


@pytest.mark.parametrize("text", _TAGGED)
def test_a_tag_that_means_nothing_here_is_refused_in_the_arguments_of_an_imported_module(path, text):
    with pytest.raises(ConfigError) as caught:
        _read_untyped(path, text)
    assert [fault.where for fault in caught.value.faults] == [f"{path}:4"]


def _or_error(read: Callable[[], Any]) -> Any:
    """What is read, or the error that refuses it."""
    try:
        return read()
    except ConfigError as error:
        return error


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("!!str 5", "5"), ("!!str no", "no"), ("!!int '5'", 5), ("!!float 5", 5.0)],
)
def test_what_pyyaml_reads_in_an_odd_way_is_what_it_looks_like_or_refused(path, text, value):
    # PyYAML reads 1e-3 as a string, YAML 1.2 as a number.
    read = _or_error(lambda: _read_untyped(path, text))
    if isinstance(read, ConfigError):
        assert [fault.where for fault in read.faults] == [f"{path}:4"]
    else:
        assert repr(read) == repr(value)


def test_an_infinite_or_missing_number_among_the_arguments_of_a_module_is_what_it_says(path):
    assert _read_untyped(path, "-.inf") == -math.inf
    assert math.isnan(_read_untyped(path, ".nan"))


@pytest.mark.parametrize("text", ['"a\\0b"', '"\\uD800"'])
@pytest.mark.parametrize("kind", ["path", "path or nothing"])
def test_a_path_that_no_file_can_have_is_refused_with_its_line(path, kind, text):
    with pytest.raises(ConfigError) as caught:
        _read_typed(path, kind, text)
    (fault,) = caught.value.faults
    assert (fault.where, fault.field) == (f"{path}:3", ".".join(FIELDS[kind]))


@pytest.mark.parametrize(
    "keep", ["{last: three}", "{lst: 3}", "{best: {metric: x, mode: mim}}", "{within: 7}"]
)
def test_a_rule_that_cannot_be_read_is_not_told_as_missing_too(tmp_path, keep):
    path = tmp_path / "run.yaml"
    path.write_text(f"module: {{name: spiral}}\ncheckpointer:\n  keep: {keep}\n")
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    (fault,) = caught.value.faults
    assert fault.field.startswith("checkpointer.keep.")
    assert "are missing" not in fault.message


@pytest.mark.parametrize("key", ["save_timeout: 10", "keep: {within: 7}"])
def test_a_duration_without_its_unit_is_told_to_lack_that_and_not_quotes(tmp_path, key):
    path = tmp_path / "run.yaml"
    path.write_text(f"module: {{name: spiral}}\ncheckpointer:\n  {key}\n")
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    (fault,) = caught.value.faults
    assert fault.message.startswith("expected a time, such as 30min,")
