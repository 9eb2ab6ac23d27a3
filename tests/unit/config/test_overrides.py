"""`--set`: one key from the command line, checked as the file is."""

from __future__ import annotations

from pathlib import Path

import pytest

from marlin_ckpt import ConfigError
from marlin_ckpt.arguments import (
    TrainerArguments,
)
from marlin_ckpt.config import read_config

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


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("trainer.epochs=5", lambda config: config.trainer.epochs == 5),
        ("tr.epochs=5", lambda config: config.trainer.epochs == 5),
        ("trainer.max_grad_norm=1e-3", lambda config: config.trainer.max_grad_norm == 0.001),
        ("trainer.device=cuda:1", lambda config: config.trainer.device == "cuda:1"),
        ("checkpointer.load_dir=a=b", lambda config: config.checkpointer.load_dir == "a=b"),
        (
            "checkpointer.model_state_save_dir=null",
            lambda config: config.checkpointer.model_state_save_dir is None,
        ),
        (
            "checkpointer.model_state_save_dir=",
            lambda config: config.checkpointer.model_state_save_dir is None,
        ),
        ("ckpt.period=4", lambda config: config.checkpointer.period == 4),
        ("trainer={epochs: 8}", lambda config: config.trainer == TrainerArguments(epochs=8)),
    ],
)
def test_a_set_overrides_one_key_and_makes_the_section_that_is_missing(
    path, override, read, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    path.write_text(f"{SPIRAL}trainer:\n  epochs: 3\n")
    assert read(read_config(path, [override]))


def test_a_set_reaches_below_the_arguments_of_an_imported_module_and_leaves_its_neighbours(path):
    path.write_text("module: {name: a:B, args: {left: {x: 1, y: 2}}}\n")
    args = read_config(path, ["module.args.left.x=9", "module.args.right.z=[1, two]"]).module.args
    assert args == {"left": {"x": 9, "y": 2}, "right": {"z": [1, "two"]}}


def test_the_last_set_of_a_key_wins(path):
    path.write_text(SPIRAL)
    assert read_config(path, ["trainer.epochs=4", "tr.epochs=5"]).trainer.epochs == 5


def test_a_set_takes_the_place_of_a_wrong_value_of_the_file(path):
    path.write_text(f"{SPIRAL}trainer: {{epochs: many}}\n")
    assert read_config(path, ["trainer.epochs=2"]).trainer.epochs == 2


@pytest.mark.parametrize(
    ("override", "where", "key", "message"),
    [
        ("trainer.epochs=x", "--set trainer.epochs", "trainer.epochs", "an integer"),
        ("trainer.epochs=", "--set trainer.epochs", "trainer.epochs", "nothing"),
        ("tr.epochs=-1", "--set tr.epochs", "trainer.epochs", "0 or more"),
        ("trainer.epoch=1", "--set trainer.epoch", "trainer.epoch", "did you mean epochs?"),
        ("trainer.clip_grads=no", "--set trainer.clip_grads", "trainer.clip_grads", "true or false"),
        ("trainr.epochs=1", "--set trainr.epochs", "trainr", "did you mean trainer?"),
        ("trainer.epochs=[1", "--set trainer.epochs", "syntax", ""),
        ("trainer.epochs.deep=1", "--set trainer.epochs.deep", "trainer.epochs.deep", "not a mapping"),
        ("trainer.epochs", "--set", "trainer.epochs", "KEY.PATH=VALUE"),
        ("=3", "--set", "=3", "KEY.PATH=VALUE"),
        ("trainer..epochs=3", "--set", "trainer..epochs", "KEY.PATH=VALUE"),
        (".epochs=3", "--set", ".epochs", "KEY.PATH=VALUE"),
        ("", "--set", "", "KEY.PATH=VALUE"),
    ],
)
def test_a_wrong_set_is_located_by_its_key(path, override, where, key, message):
    text = f"{SPIRAL}trainer:\n  epochs: 3\n"
    ((found_where, found_key, found_message),) = _faults(path, text, override)
    assert (found_where, found_key) == (where, key)
    assert message in found_message


def test_faults_of_the_file_and_of_sets_are_told_together(path):
    faults = _faults(path, f"{SPIRAL}trainer:\n  epochs: x\n", "checkpointer.period=0", "nonsense")
    assert {(where, key) for where, key, _ in faults} == {
        (":3", "trainer.epochs"),
        ("--set checkpointer.period", "checkpointer.period"),
        ("--set", "nonsense"),
    }
