"""When, where and what DefaultCheckpointer saves."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from marlin_ckpt import (
    AbstractCheckpointer,
    ArgumentsError,
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    StorageError,
    UnsavableStateError,
)


class _PicklableMock(mock.MagicMock):
    """The mock of PyMarlin's own tests: it pickles as a plain MagicMock."""

    def __reduce__(self):
        return (mock.MagicMock, ())


def _listing(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.exists() else []


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where `make_checkpointer` saves."""
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    "case",  # checkpoint, period, index, force, saved
    [
        (True, 1, 0, False, True),
        (True, 1, 7, False, True),
        (True, 2, 0, False, True),
        (True, 2, 3, False, False),
        (True, 2, 4, False, True),
        (True, 2, 3, True, True),
        (True, 10, 5, False, False),
        (False, 1, 0, False, False),
        (False, 2, 4, True, False),
    ],
)
def test_save_writes_when_checkpoint_is_set_and_the_period_or_force_says_so(
    make_checkpointer, make_checkpoint, directory, case
):
    checkpoint, period, index, force, saved = case
    checkpointer = make_checkpointer(checkpoint=checkpoint, period=period)
    path = checkpointer.save(make_checkpoint(), index, force)
    assert path == (str(directory / f"model_{index}.pt") if saved else None)
    assert _listing(directory) == ([f"model_{index}.pt"] if saved else [])


@pytest.mark.parametrize("index", [np.int64(4), torch.tensor(4), True])
def test_an_index_that_is_an_integer_by_another_type_is_written_as_its_number(
    make_checkpointer, make_checkpoint, directory, index
):
    make_checkpointer().save(make_checkpoint(), index)
    assert _listing(directory) == [f"model_{int(index)}.pt"]


@pytest.mark.parametrize("index", [-1, 1.0, "1", None])
@pytest.mark.parametrize("method", ["save", "save_model"])
def test_an_index_that_no_name_can_carry_is_refused_and_nothing_is_written(
    make_checkpointer, make_checkpoint, directory, method, index
):
    with pytest.raises(ArgumentsError, match="index: expected an integer of 0 or more"):
        getattr(make_checkpointer(), method)(make_checkpoint(), index)
    assert _listing(directory) == []


def test_save_makes_the_directory_with_its_parents_and_takes_paths(tmp_path: Path, make_checkpoint):
    save_dir = tmp_path / "a" / "b"
    path = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=save_dir)).save(make_checkpoint(), 1)
    assert path == str(save_dir / "model_1.pt")
    assert os.path.isfile(path)


def test_a_directory_given_relative_gives_a_path_given_relative(tmp_path: Path, monkeypatch, make_checkpoint):
    monkeypatch.chdir(tmp_path)
    path = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir="here")).save(make_checkpoint(), 1)
    assert path == os.path.join("here", "model_1.pt")
    assert _listing(tmp_path / "here") == ["model_1.pt"]


def test_saving_under_an_index_again_replaces_the_file_and_leaves_no_other(
    make_checkpointer, make_checkpoint, directory
):
    checkpointer = make_checkpointer()
    checkpointer.save(make_checkpoint(1.0), 4)
    checkpointer.save(make_checkpoint(2.0), 4)
    assert _listing(directory) == ["model_4.pt"]
    assert checkpointer.load().trainer_state == {"last_epoch": 2}


def test_a_file_saved_over_keeps_its_other_hard_link(make_checkpointer, make_checkpoint, directory):
    checkpointer = make_checkpointer()
    os.link(checkpointer.save(make_checkpoint(1.0), 1), directory / "best.pt")
    checkpointer.save(make_checkpoint(2.0), 1)
    kept = torch.load(directory / "best.pt", weights_only=True)
    assert kept["trainer_state"] == {"last_epoch": 1}


@pytest.mark.parametrize(
    ("checkpoint", "folder", "saved"),
    [(True, "models", True), (False, "models", False), (True, None, False)],
)
def test_save_model_writes_when_checkpoint_and_its_directory_are_set(
    tmp_path: Path, make_checkpointer, checkpoint, folder, saved
):
    models = str(tmp_path / folder) if folder else folder
    checkpointer = make_checkpointer(checkpoint=checkpoint, model_state_save_dir=models, period=5)
    path = checkpointer.save_model({"weight": torch.ones(2)}, 3)
    assert path == (os.path.join(models, "model_model_3.pt") if saved else None)
    assert _listing(tmp_path / "models") == (["model_model_3.pt"] if saved else [])
    assert _listing(tmp_path / "checkpoints") == []


def test_a_model_file_holds_the_state_alone(make_checkpointer):
    path = make_checkpointer().save_model(torch.nn.Linear(2, 3).state_dict(), 1)
    torch.nn.Linear(2, 3).load_state_dict(torch.load(path, weights_only=True))
    assert list(torch.load(path, weights_only=True)) == ["weight", "bias"]


def test_save_model_does_nothing_unless_overridden():
    class Own(AbstractCheckpointer):
        def save(self, checkpoint_state, index, force=False):
            return "saved"

        def load(self):
            return Checkpoint()

    assert Own().save_model({}, 1) is None


@pytest.mark.parametrize("missing", ["save", "load"])
def test_a_checkpointer_without_save_or_load_cannot_be_made(missing: str):
    methods = {name: (lambda self: None) for name in ("save", "load") if name != missing}
    with pytest.raises(TypeError, match=f"abstract method '?{missing}'?"):
        type("Own", (AbstractCheckpointer,), methods)()


def test_arguments_set_between_calls_are_obeyed_by_the_next_call(
    tmp_path: Path, make_checkpointer, make_checkpoint, directory
):
    checkpointer = make_checkpointer(checkpoint=False)
    assert checkpointer.save(make_checkpoint(), 1) is None
    checkpointer.args.checkpoint = True
    checkpointer.args.file_prefix, checkpointer.args.file_ext = "net", "tar"
    checkpointer.args.save_dir = checkpointer.args.load_dir = str(tmp_path / "other")
    assert checkpointer.save(make_checkpoint(3.0), 1) == str(tmp_path / "other" / "net_1.tar")
    assert checkpointer.load().trainer_state == {"last_epoch": 3}
    assert _listing(directory) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda checkpointer: checkpointer.save(Checkpoint(), 1),
        lambda checkpointer: checkpointer.save_model({}, 1),
        lambda checkpointer: checkpointer.load(),
    ],
    ids=["save", "save_model", "load"],
)
def test_arguments_set_between_calls_are_checked_again_all_at_once(make_checkpointer, directory, call):
    checkpointer = make_checkpointer()
    checkpointer.args.period = 0
    checkpointer.args.file_prefix = "../model"
    with pytest.raises(ArgumentsError) as caught:
        call(checkpointer)
    assert {fault.field for fault in caught.value.faults} == {"period", "file_prefix"}
    assert _listing(directory) == []


@pytest.mark.parametrize(
    "spec", [torch.Tensor, torch.UntypedStorage, torch.storage.TypedStorage, np.ndarray, Path, dict, type]
)
def test_a_mock_of_a_type_is_saved_as_what_it_is_and_not_as_what_it_plays(make_checkpointer, spec: type):
    checkpointer = make_checkpointer(weights_only=False)
    checkpointer.save(Checkpoint({"played": _PicklableMock(spec=spec), "real": torch.ones(2)}, {}, {}), 1)
    state = checkpointer.load().module_interface_state
    assert isinstance(state["played"], mock.MagicMock)
    assert torch.equal(state["real"], torch.ones(2))


class _Unpicklable:
    def __reduce__(self):
        raise ZeroDivisionError("no way")


def _two_types() -> list[torch.Tensor]:
    floats = torch.ones(4)
    return [floats, floats.view(torch.int32)]


def _nested(depth: int, leaf: object) -> list[object]:
    state = [leaf]
    for _ in range(depth):
        state = [state]
    return state


@pytest.mark.parametrize(
    ("make_state", "message"),
    [
        (lambda: {"f": lambda: 1}, "cannot be pickled"),
        (lambda: {"x": _Unpicklable()}, "no way"),
        (lambda: (number for number in [1]), "cannot be pickled"),
        (_two_types, "view the same memory"),
        (lambda: _nested(100_000, 1), "nested too deeply"),
        (lambda: _nested(100_000, Path("a")), "nested too deeply"),
    ],
    ids=["lambda", "failing reduce", "generator", "two dtypes", "deep", "deep with a path"],
)
def test_a_state_that_cannot_be_pickled_is_an_error_of_ours_and_the_older_file_stands(
    make_checkpointer, make_checkpoint, directory, make_state: Callable[[], object], message: str
):
    checkpointer = make_checkpointer()
    before = Path(checkpointer.save(make_checkpoint(), 1)).read_bytes()
    with pytest.raises(UnsavableStateError, match=message):
        checkpointer.save(Checkpoint(make_state(), {}, {}), 1)
    assert _listing(directory) == ["model_1.pt"]
    assert (directory / "model_1.pt").read_bytes() == before


@pytest.mark.parametrize("value", ["high", None, [1], torch.ones(2)])
def test_a_metric_that_is_no_number_is_refused_with_its_name(make_checkpointer, directory, value):
    with pytest.raises(ArgumentsError, match=r"metrics\['loss'\]: expected a number"):
        make_checkpointer().save(Checkpoint({}, {}, {}, {"loss": value, "ok": 1.0}), 1)
    assert _listing(directory) == []


@pytest.mark.parametrize("method", ["save", "save_model"])
def test_a_file_in_the_place_of_the_directory_is_an_error_that_names_it(tmp_path, make_checkpointer, method):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(StorageError, match="cannot make the directory: a file is in the way") as caught:
        getattr(make_checkpointer(), method)(Checkpoint(), 1)
    assert (caught.value.where, caught.value.errno) == (str(tmp_path / "checkpoints"), errno.ENOTDIR)
    assert (tmp_path / "checkpoints").read_text() == "in the way"


@pytest.mark.parametrize(
    ("below", "number"),
    [("file/sub", errno.ENOTDIR), ("n" * 300, errno.ENAMETOOLONG), ("loop/sub", errno.ELOOP)],
)
def test_check_mk_dir_says_which_directory_cannot_be_made_and_why(tmp_path, make_checkpointer, below, number):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageError, match="cannot make the directory: ") as caught:
        make_checkpointer().check_mk_dir(tmp_path / below)
    assert (caught.value.where, caught.value.errno) == (str(tmp_path / below), number)


def test_check_mk_dir_makes_parents_and_leaves_what_is_there(tmp_path: Path, make_checkpointer):
    checkpointer = make_checkpointer()
    for _ in range(2):
        checkpointer.check_mk_dir(str(tmp_path / "a" / "b"))
        (tmp_path / "a" / "b" / "kept").touch()
    assert _listing(tmp_path / "a" / "b") == ["kept"]


def test_a_prefix_too_long_for_the_file_system_is_an_error_that_names_the_file(make_checkpointer, directory):
    with pytest.raises(StorageError, match="cannot write: File name too long"):
        make_checkpointer(file_prefix="p" * 300).save(Checkpoint({}, {}, {}), 1)
    assert _listing(directory) == []


@pytest.mark.parametrize("prefix", ["p" * 248, "caf\udce9", "two\nlines", "[red]", "\x1b[31m", "a_model"])
def test_any_prefix_that_a_file_name_can_hold_is_saved_and_found_again(make_checkpointer, directory, prefix):
    checkpointer = make_checkpointer(file_prefix=prefix)
    checkpointer.save(Checkpoint({}, {"last_epoch": 5}, {}), 1)
    assert _listing(directory) == [f"{prefix}_1.pt"]
    assert checkpointer.load().trainer_state == {"last_epoch": 5}
