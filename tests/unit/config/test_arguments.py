"""The checkpointer's arguments: what they are unless told otherwise, and what they refuse."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from marlin_ckpt import (
    AbstractCheckpointer,
    ArgumentsError,
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
)
from marlin_ckpt.errors import Fault


def test_the_defaults_are_those_of_the_reference_and_of_what_is_ours(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert asdict(DefaultCheckpointerArguments()) == {
        "checkpoint": True,
        "delete_existing_checkpoints": False,
        "period": 1,
        "save_dir": str(tmp_path / "checkpoints"),
        "model_state_save_dir": str(tmp_path / "checkpoints"),
        "load_dir": None,
        "load_filename": None,
        "file_prefix": "model",
        "file_ext": "pt",
        "log_level": "INFO",
        "max_overhead": 0.035,
        "mean_time_between_failures_hours": None,
        "async_save": False,
        "overlap": True,
        "check_overlap": False,
        "when_busy": "wait",
        "on_save_error": "raise",
        "keep": None,
        "check_space": True,
        "weights_only": True,
        "resume_from": None,
        "statistics": False,
        "share_unchanged": False,
        "layout": "auto",
        "save_timeout": "10m",
        "remote": None,
    }


def test_the_default_directories_lie_under_the_working_directory_at_construction(tmp_path: Path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        arguments = DefaultCheckpointerArguments()
        monkeypatch.chdir(tmp_path)
        assert arguments.save_dir == str(tmp_path / name / "checkpoints")
        assert arguments.model_state_save_dir == str(tmp_path / name / "checkpoints")


def test_fields_may_be_given_by_position_in_the_references_order():
    arguments = DefaultCheckpointerArguments(False, True, 2, "s", "m", "l", "f.tar", "test", "tar", "DEBUG")
    assert arguments == DefaultCheckpointerArguments(
        checkpoint=False,
        delete_existing_checkpoints=True,
        period=2,
        save_dir="s",
        model_state_save_dir="m",
        load_dir="l",
        load_filename="f.tar",
        file_prefix="test",
        file_ext="tar",
        log_level="DEBUG",
    )


BAD_VALUES = [
    ("checkpoint", "yes"),
    ("checkpoint", 1),
    ("delete_existing_checkpoints", None),
    ("period", 0),
    ("period", -1),
    ("period", 1.0),
    ("period", "5"),
    ("period", True),
    ("period", None),
    ("save_dir", ""),
    ("save_dir", None),
    ("save_dir", 3),
    ("model_state_save_dir", 3),
    ("load_dir", 3),
    ("load_filename", "../model_1.pt"),
    ("load_filename", "sub/../../model_1.pt"),
    ("load_filename", ".."),
    ("load_filename", "/etc/passwd"),
    ("load_filename", Path("..") / "model_1.pt"),
    ("load_filename", 7),
    ("file_prefix", ""),
    ("file_prefix", "sub/model"),
    ("file_prefix", "/model"),
    ("file_prefix", "model\0"),
    ("file_prefix", None),
    ("file_ext", ""),
    ("file_ext", ".pt"),
    ("file_ext", "p/t"),
    ("file_ext", "pt\0"),
    ("file_ext", 3),
    ("log_level", "LOUD"),
    ("log_level", "info"),
    ("log_level", ""),
    ("log_level", 20),
    ("weights_only", "no"),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_bad_value_is_refused_at_construction_naming_its_field(name: str, value: Any):
    with pytest.raises(ArgumentsError) as caught:
        DefaultCheckpointerArguments(**{name: value})
    assert [fault.field for fault in caught.value.faults] == [name]
    assert str(caught.value).startswith(f"{name}: ")


def test_all_bad_values_are_told_at_once_each_with_its_field():
    bad = dict(BAD_VALUES)
    with pytest.raises(ArgumentsError) as caught:
        DefaultCheckpointerArguments(**bad)
    assert {fault.field for fault in caught.value.faults} == set(bad)
    assert len(str(caught.value).splitlines()) == len(bad)


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("period", 0, ["1 or more", "0"]),
        ("period", "5", ["an integer", "'5'"]),
        ("checkpoint", "yes", ["true or false", "'yes'"]),
        ("load_dir", 3, ["a path or nothing", "3"]),
        ("file_prefix", "a/b", ["path separator", "'a/b'"]),
        ("file_ext", ".pt", ["without its dot", "'pt'"]),
        ("load_filename", "../x", ["inside load_dir", "'../x'"]),
        ("log_level", "info", ["DEBUG, INFO, WARNING, ERROR, CRITICAL", "'info'", "did you mean INFO?"]),
        ("log_level", "WARN", ["'WARN'", "did you mean WARNING?"]),
    ],
)
def test_a_fault_tells_what_was_expected_and_what_was_found(name: str, value: Any, parts: list[str]):
    with pytest.raises(ArgumentsError) as caught:
        DefaultCheckpointerArguments(**{name: value})
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("file_prefix", "my model v1.5 [red]\n"),
        ("file_prefix", "."),
        ("file_ext", "tar.gz"),
        ("load_filename", "sub/model_1.pt"),
        ("load_filename", Path("sub") / "..model_1.pt"),
        ("model_state_save_dir", None),
        ("model_state_save_dir", ""),
        ("load_dir", ""),
        ("load_dir", Path("somewhere")),
        ("save_dir", Path("somewhere")),
        ("log_level", "CRITICAL"),
        ("period", 10**9),
    ],
)
def test_a_value_that_can_be_obeyed_is_kept_as_it_was_given(name: str, value: Any):
    assert getattr(DefaultCheckpointerArguments(**{name: value}), name) == value


def test_a_field_set_later_is_checked_when_asked():
    arguments = DefaultCheckpointerArguments()
    arguments.period = 0
    arguments.file_ext = ""
    with pytest.raises(ArgumentsError) as caught:
        arguments.check()
    assert {fault.field for fault in caught.value.faults} == {"period", "file_ext"}
    arguments.period, arguments.file_ext = 3, "tar"
    arguments.check()
    assert (arguments.period, arguments.file_ext) == (3, "tar")


def test_a_derived_dataclass_adds_fields_and_faults_of_its_own():
    @dataclass
    class Mine(DefaultCheckpointerArguments):
        keep: int = field(default=3, metadata={"minimum": 1})
        tag: str = ""

        def faults(self) -> list[Fault]:
            return super().faults() + ([Fault("tag", "must be set")] if not self.tag else [])

    assert (Mine(tag="a", period=2).keep, Mine(tag="a", period=2).period) == (3, 2)
    with pytest.raises(ArgumentsError) as caught:
        Mine(keep=0, period=0)
    assert sorted(fault.field for fault in caught.value.faults) == ["keep", "period", "tag"]


class _Budget:
    """A type of a user's own, which the library cannot know."""


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        pytest.param(Any, "anything", id="Any"),
        pytest.param(Any | None, 5, id="Any or None"),
        pytest.param(Literal["min", "max"], "min", id="Literal"),
        pytest.param(Callable[[int], bool], bool, id="Callable"),
        pytest.param(tuple[int, ...], (1, 2), id="tuple"),
        pytest.param(set[str], {"a"}, id="set"),
        pytest.param(dict[str, int] | None, None, id="dict or None"),
        pytest.param(type[Exception], ValueError, id="class"),
        pytest.param(_Budget, _Budget(), id="own"),
        pytest.param("_Budget | None", None, id="own in quotes"),
        pytest.param(float, 1, id="float"),
    ],
)
def test_a_derived_dataclass_may_annotate_its_fields_with_any_type(
    annotation: Any, value: Any, tmp_path: Path
):
    namespace = {"__annotations__": {"extra": annotation}, "extra": None, "__module__": __name__}
    mine = dataclass(type("Mine", (DefaultCheckpointerArguments,), namespace))
    arguments = mine(extra=value, save_dir=str(tmp_path))
    assert arguments.extra is value
    assert DefaultCheckpointer(arguments).args is arguments


def test_a_derived_dataclass_may_name_types_that_only_its_function_knows():
    class Local:
        pass

    # `from __future__ import annotations` leaves the name of a local class, which nobody can resolve later.
    @dataclass
    class Mine(DefaultCheckpointerArguments):
        extra: Local | None = None

    assert Mine(period=4).period == 4


def test_a_checkpointer_of_ones_own_may_take_a_dataclass_of_its_own(tmp_path: Path):
    @dataclass
    class Mine(DefaultCheckpointerArguments):
        suffix: str = ".note"

    class Noting(DefaultCheckpointer):
        args: Mine

        def save(self, checkpoint_state, index, force=False):
            path = super().save(checkpoint_state, index, force)
            if path:
                Path(path + self.args.suffix).write_text("saved")
            return path

    from marlin_ckpt import Checkpoint

    checkpointer = Noting(Mine(save_dir=tmp_path, suffix=".txt"))
    assert isinstance(checkpointer, AbstractCheckpointer)
    checkpointer.save(Checkpoint({}, {}, {}), 1)
    assert sorted(os.listdir(tmp_path)) == ["model_1.pt", "model_1.pt.txt"]


class OfProjects(DefaultCheckpointerArguments):
    """Arguments that are wrong where a project has ended."""

    def faults(self) -> list[Fault]:
        has_ended = os.path.exists(os.path.join(self.save_dir, "ended"))
        return [*super().faults(), *([Fault("save_dir", "has ended")] if has_ended else [])]


def test_what_arguments_of_the_users_own_look_at_is_looked_at_by_each_call(tmp_path: Path):
    checkpointer = DefaultCheckpointer(OfProjects(save_dir=str(tmp_path), load_dir=str(tmp_path)))
    checkpointer.save(Checkpoint(), 1)
    (tmp_path / "ended").touch()
    with pytest.raises(ArgumentsError, match="has ended"):
        checkpointer.save(Checkpoint(), 2)
