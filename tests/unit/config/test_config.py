"""The sections, the keys, and the lines of faults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from marlin_ckpt import ConfigError
from marlin_ckpt.arguments import (
    DefaultCheckpointerArguments,
    ImportedModuleArguments,
    SpiralArguments,
    TextArguments,
    TrainerArguments,
)
from marlin_ckpt.config import Config, read_config

SPIRAL = "module: {name: spiral}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def _faults(path: Path, text: str, *overrides: str) -> list[tuple[str, str, str]]:
    """The place, the key and the message of each fault; the place without the file's name."""
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(path, overrides)
    assert caught.value.exit_code == 2
    return [
        (fault.where.removeprefix(str(path)), fault.field, fault.message) for fault in caught.value.faults
    ]


def test_all_faults_of_a_file_are_in_one_error_each_with_its_line_and_key_path(path):
    text = """\
module:
  name: spiral
  point: 300
  arms: three
trainer:
  epochs: -1
  train_batch_size: 1.5
  clip_grads: no
  epochs: 2
chekpointer:
  period: 0
ckpt:
  period: 0
  log_level: INF
  file_prefix: a/b
"""
    faults = _faults(path, text)
    assert [(where, key) for where, key, _ in faults] == [
        (":3", "module.point"),
        (":4", "module.arms"),
        (":6", "trainer.epochs"),
        (":7", "trainer.train_batch_size"),
        (":8", "trainer.clip_grads"),
        (":9", "trainer.epochs"),
        (":10", "chekpointer"),
        (":13", "checkpointer.period"),
        (":14", "checkpointer.log_level"),
        (":15", "checkpointer.file_prefix"),
    ]


def test_the_text_of_the_error_has_one_line_for_each_fault_that_starts_with_file_and_line(path):
    path.write_text(SPIRAL + "trainer:\n  epochs: x\n  epoch: 3\n")
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{path}:3: trainer.epochs: ")
    assert second.startswith(f"{path}:4: trainer.epoch: ")


@pytest.mark.parametrize(
    ("section", "key", "near"),
    [
        ("trainer", "epoch", "epochs"),
        ("trainer", "max_train_step_per_epoch", "max_train_steps_per_epoch"),
        ("checkpointer", "savedir", "save_dir"),
        ("checkpointer", "weight_only", "weights_only"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_valid_one(path, section, key, near):
    ((where, field, message),) = _faults(path, f"{SPIRAL}{section}:\n  {key}: 1\n")
    assert (where, field) == (":3", f"{section}.{key}")
    assert "unknown key" in message
    assert f"did you mean {near}?" in message


def test_an_unknown_key_that_is_like_none_gets_no_suggestion(path):
    ((_, _, message),) = _faults(path, f"{SPIRAL}trainer:\n  zzz: 1\n")
    assert message == "unknown key"


def test_a_key_that_yaml_does_not_have_is_unknown_though_the_dataclass_has_the_field(path):
    ((where, field, message),) = _faults(path, f"{SPIRAL}trainer:\n  checkpointer_args: {{}}\n")
    assert (where, field) == (":3", "trainer.checkpointer_args")
    assert "unknown key" in message


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("trainer", "epochs: many", ("an integer", "'many'")),
        ("trainer", "epochs: 1.0", ("an integer", "'1.0'")),
        ("trainer", 'epochs: "3"', ("an integer", "'3'")),
        ("trainer", "epochs: [3]", ("an integer", "a list")),
        ("trainer", "epochs: {a: 3}", ("an integer", "a mapping")),
        ("trainer", "epochs:", ("an integer", "nothing")),
        ("trainer", "max_grad_norm: high", ("a number", "'high'")),
        ("trainer", "clip_grads: 1", ("true or false", "'1'")),
        ("trainer", 'clip_grads: "true"', ("true or false", "'true'")),
        ("trainer", "max_train_steps_per_epoch: x", ("an integer or nothing", "'x'")),
        ("trainer", "device: 0", ("a string", "'0'")),
        ("checkpointer", "save_dir: [a]", ("a path", "a list")),
        ("checkpointer", "load_dir: 3", ("a path or nothing", "'3'")),
        ("trainer", "epochs: -1", ("0 or more", "-1")),
        ("trainer", "train_batch_size: 0", ("1 or more", "0")),
        ("trainer", "max_grad_norm: 0", ("above 0", "0.0")),
        ("trainer", "backend: dp", ("sp", "'dp'")),
        ("checkpointer", "period: 0", ("1 or more", "0")),
        ("checkpointer", "log_level: LOUD", ("DEBUG, INFO", "'LOUD'")),
        ("checkpointer", "file_ext: .pt", ("'pt'", "'.pt'")),
        ("checkpointer", 'file_prefix: ""', ("must not be empty",)),
        ("checkpointer", "load_filename: ../x.pt", ("inside load_dir", "'../x.pt'")),
    ],
)
def test_a_value_that_does_not_fit_is_answered_with_what_was_expected_and_found(
    path, section, line, expected
):
    ((where, field, message),) = _faults(path, f"{SPIRAL}{section}:\n  {line}\n")
    assert (where, field) == (":3", f"{section}.{line.partition(':')[0]}")
    assert all(part in message for part in expected), message


def test_a_wrong_item_of_a_list_is_named_by_its_number_and_line(path):
    faults = _faults(path, "module:\n  name: text\n  files:\n    - a.txt\n    - 3\n    - no\n")
    assert [(where, key) for where, key, _ in faults] == [
        (":5", "module.files[1]"),
        (":6", "module.files[2]"),
    ]


@pytest.mark.parametrize("spelling", ["chkp", "ckpt", "ckp", "checkpointer"])
def test_the_checkpointer_is_read_under_each_of_pymarlins_spellings(path, spelling):
    path.write_text(f"{SPIRAL}{spelling}: {{period: 7}}\n")
    assert read_config(path).checkpointer.period == 7


@pytest.mark.parametrize("spelling", ["tr", "trainer"])
def test_the_trainer_is_read_under_each_of_pymarlins_spellings(path, spelling):
    path.write_text(f"{SPIRAL}{spelling}: {{epochs: 7}}\n")
    assert read_config(path).trainer.epochs == 7


@pytest.mark.parametrize(
    ("first", "second", "key"),
    [
        ("chkp", "ckpt", "checkpointer"),
        ("checkpointer", "ckp", "checkpointer"),
        ("tr", "trainer", "trainer"),
        ("trainer", "trainer", "trainer"),
    ],
)
def test_a_section_under_two_spellings_is_a_duplicate(path, first, second, key):
    ((where, field, message),) = _faults(path, f"{SPIRAL}{first}: {{}}\n{second}: {{}}\n")
    assert (where, field) == (":3", key)
    assert "twice" in message
    assert f"{path}:2" in message


def test_a_file_without_the_section_module_is_refused_and_its_other_faults_told_too(path):
    faults = _faults(path, "trainer:\n  epochs: x\n")
    assert [(where, field) for where, field, _ in faults] == [("", "module"), (":2", "trainer.epochs")]
    assert "missing" in faults[0][2]


@pytest.mark.parametrize("rest", ["", "trainer:\ncheckpointer:\n", "trainer: {}\ncheckpointer: null\n"])
def test_a_section_that_is_missing_or_empty_has_its_defaults(path, rest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path.write_text(SPIRAL + rest)
    checkpointer = DefaultCheckpointerArguments()
    assert read_config(path) == Config(
        SpiralArguments(), TrainerArguments(checkpointer_args=checkpointer), checkpointer
    )


def test_the_trainer_is_given_the_checkpointers_section(path):
    path.write_text(f"{SPIRAL}checkpointer: {{period: 9}}\n")
    assert read_config(path).trainer.checkpointer_args.period == 9


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("{name: text, files: [a, b], width: 8}", TextArguments(files=["a", "b"], width=8)),
        ("{name: spiral, points: 50}", SpiralArguments(points=50)),
        ("{name: a.b:C}", ImportedModuleArguments(name="a.b:C")),
        ("{name: a:C, args: {x: [1, {y: null}]}}", ImportedModuleArguments("a:C", {"x": [1, {"y": None}]})),
    ],
)
def test_the_name_of_the_module_decides_its_keys(path, text, module):
    path.write_text(f"module: {text}\n")
    assert read_config(path).module == module


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("spirale", "did you mean spiral?"),
        ("a.b", "my_file:MyModule"),
        ("a-b:C", "my_file:MyModule"),
        ("a:", "text"),
    ],
)
def test_a_module_of_no_known_name_is_refused_with_the_known_ones(path, name, advice):
    ((where, field, message),) = _faults(path, f"module:\n  name: {name!r}\n")
    assert (where, field) == (":2", "module.name")
    assert advice in message
    assert repr(name) in message


def test_relative_paths_stay_relative_to_the_working_directory_and_not_to_the_file(
    path, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path.write_text(f"{SPIRAL}checkpointer: {{save_dir: out, load_dir: ../in}}\n")
    checkpointer = read_config(os.path.join(os.pardir, path.name)).checkpointer
    assert (checkpointer.save_dir, checkpointer.load_dir) == ("out", "../in")
    assert checkpointer.model_state_save_dir == "out"


@pytest.mark.parametrize(
    ("section", "overrides", "expected", "lines"),
    [
        ("{save_dir: out}", [], "out", 1),
        ("{period: 2}", ["checkpointer.save_dir=out"], "out", 1),
        ("{save_dir: out, model_state_save_dir: models}", [], "models", 0),
        ("{save_dir: out, model_state_save_dir: null}", [], None, 0),
        ("{model_state_save_dir: models}", [], "models", 0),
        ("{save_dir: checkpoints}", [], "checkpoints", 0),
    ],
)
def test_where_only_save_dir_is_set_model_files_go_there_too_and_a_line_says_so(
    path, caplog, section, overrides, expected, lines
):
    path.write_text(f"{SPIRAL}checkpointer: {section}\n")
    caplog.set_level("INFO", "marlin_ckpt.config")
    config = read_config(path, overrides)
    assert config.checkpointer.model_state_save_dir == expected
    assert config.trainer.checkpointer_args is config.checkpointer
    told = [one for one in caplog.messages if "Model files go to out too" in one]
    assert len(told) == len(caplog.messages) == lines


def test_without_a_save_dir_both_defaults_are_the_reference_s(path):
    path.write_text(SPIRAL)
    checkpointer, default = read_config(path).checkpointer, DefaultCheckpointerArguments()
    assert checkpointer.model_state_save_dir == default.model_state_save_dir == os.path.abspath("checkpoints")
    assert DefaultCheckpointerArguments(save_dir="out").model_state_save_dir == default.model_state_save_dir
