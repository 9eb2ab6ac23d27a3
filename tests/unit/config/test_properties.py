"""Whatever a file holds, its values are read as they were written or refused, and no error is but ours."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from marlin_ckpt import ConfigError
from marlin_ckpt.config import Config, read_config

FIELDS = {  # by type: a section and a key
    "int": ("module", "data_seed"),
    "float": ("trainer", "max_grad_norm"),
    "bool": ("checkpointer", "delete_existing_checkpoints"),
    "str": ("trainer", "device"),
    "path": ("checkpointer", "save_dir"),
    "path or nothing": ("checkpointer", "load_dir"),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("properties") / "run.yaml"


def _or_error(read: Callable[[], Any]) -> Any:
    """What is read, or the error that refuses it."""
    try:
        return read()
    except ConfigError as error:
        return error


_VALUES = {
    "int": st.integers(min_value=0),
    "float": st.floats(),
    "bool": st.booleans(),
    "str": st.text(),
    "path": st.text(),
    "path or nothing": st.none() | st.text(),
}


@given(st.sampled_from(sorted(_VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), _VALUES[kind])))
@example(("str", "1_000"))
@example(("str", "no"))
@example(("float", 1e-300))
def test_what_pyyaml_writes_is_read_back_equal_or_refused(path, case):
    kind, value = case
    section, key = FIELDS[kind]
    document: dict = {"module": {"name": "spiral"}}
    document.setdefault(section, {})[key] = value
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    config = _or_error(lambda: read_config(path))
    if isinstance(config, ConfigError):
        assert config.faults[0].where.startswith(str(path))
        return
    read = getattr(getattr(config, section), key)
    assert read == value
    assert type(read) is type(value)


_PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_TREES = st.recursive(_PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(_TREES)
def test_arguments_of_a_module_that_pyyaml_writes_are_read_back_equal_or_refused(path, value):
    document = {"module": {"name": "a:B", "args": {"x": value}}}
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    read = _or_error(lambda: read_config(path).module.args["x"])
    if isinstance(read, ConfigError):
        assert read.faults[0].where.startswith(str(path))
        return
    assert read == value
    assert repr(read) == repr(value)  # 1 == 1.0 == True


def _check_config_or_error(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    config = _or_error(lambda: read_config(path))
    if isinstance(config, ConfigError):
        assert config.faults
        assert all(fault.message and fault.where.startswith(str(path)) for fault in config.faults)
    else:
        assert isinstance(config, Config)


_KEYS = ["module", "trainer", "tr", "name", "epochs", "args", "device", "max_grad_norm"]


@given(st.text())
@example("\ufeff")
@example("%YAML 1.1\n--- {module: {name: spiral}}")
@example("%YAML 1." + "9" * 5000 + "\n--- {}")
@example('"\\UFFFFFFFF"')
@example('"\\U00110000"')
def test_any_text_is_a_configuration_or_one_error(path, text):
    _check_config_or_error(path, text.encode("utf-8", "surrogatepass"))


@given(st.binary())
def test_any_bytes_are_a_configuration_or_one_error(path, data):
    _check_config_or_error(path, data)


@given(
    st.lists(st.sampled_from(_KEYS), max_size=3),
    st.text(alphabet="0123456789_+-.:eExobnyNan~\"'\\#&*!%@`|>{}[],? \n\t<=" + string.ascii_uppercase[:6]),
)
def test_any_value_in_yamls_own_characters_is_a_configuration_or_one_error(path, keys, value):
    nested = "".join(f"{'  ' * depth}{key}:\n" for depth, key in enumerate(keys)).rstrip("\n")
    _check_config_or_error(path, f"{nested} {value}\n".encode())
