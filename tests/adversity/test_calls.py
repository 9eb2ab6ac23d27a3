"""A save in which a system call fails or does less than it was asked for."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marlin_ckpt import Checkpoint, StorageError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.naming import Kind
from marlin_ckpt.storage.local import files, publishing, system_calls, temporary
from marlin_ckpt.storage.local.publishing import publish
from tests.support.leftovers import open_descriptors

SYSTEM_CALLS = {"open", "mkdir", "write", "fsync", "close", "dup", "rename", "unlink", "flock"}


class Seam:
    """Stands for `os` and `fcntl` in the storage layer, and hands each system call to `around`."""

    def __init__(self, module, around: Callable) -> None:
        self._module = module
        self._around = around

    def __getattr__(self, name: str):
        real = getattr(self._module, name)
        return functools.partial(self._around, name, real) if name in SYSTEM_CALLS else real


@pytest.fixture
def seam(monkeypatch):
    """Puts a function between the storage layer and the system; none takes it away again."""

    def install(around: Callable | None = None) -> None:
        for module in (files, publishing, system_calls, temporary):
            monkeypatch.setattr(module, "os", Seam(os, around) if around else os)
        monkeypatch.setattr(temporary, "fcntl", Seam(fcntl, around) if around else fcntl)

    return install


class Failing:
    """Fails the system call of one number, or all from it on, as the kernel would."""

    def __init__(self, number: int, code: int, later: int | None = None) -> None:
        self.made: list[str] = []
        self.fsync_repeated = False
        self._number = number
        self._code = code
        self._later = later
        self._unsynced: set[int] = set()

    def __call__(self, name: str, real: Callable, *args, **kwargs):
        number = len(self.made)
        self.made.append(name)
        if name == "fsync":
            inode = os.fstat(args[0]).st_ino
            self.fsync_repeated |= inode in self._unsynced
        code = self._code if number == self._number else self._later if number > self._number >= 0 else None
        if code is None:
            return real(*args, **kwargs)
        if name == "close":  # Linux closes a descriptor even when it reports an error
            real(*args, **kwargs)
        if name == "fsync":
            self._unsynced.add(inode)
        raise OSError(code, os.strerror(code))

    @property
    def struck(self) -> str:
        return self.made[self._number] if len(self.made) > self._number else ""


def checkpoint(value: float) -> Checkpoint:
    return Checkpoint({"large": torch.full((300_000,), value), "small": torch.full((3,), value)}, {}, {})


def faults_of_a_failed_save(checkpointer, seam, failing: Failing, code: int) -> Iterator[str]:
    """Saves while a call fails, over an older file of the name, and tells what is then wrong."""
    directory = Path(checkpointer.args.save_dir)
    target = directory / "model_1.pt"
    old = target.read_bytes()
    descriptors = open_descriptors()
    seam(failing)
    try:
        checkpointer.save(checkpoint(2.0), 1)
    except StorageError as error:
        if error.errno != code:
            yield f"errno {error.errno}"
        if str(target) not in str(error):
            yield f"no path in {error}"
    except OSError as error:
        yield f"a bare {error!r}"
    else:
        yield "no error"
    finally:
        seam()
    if failing.fsync_repeated:
        yield "fsync repeated after it failed"
    if target.read_bytes() != old:
        yield "the old file is gone"
    if litter := set(os.listdir(directory)) - {"model_1.pt"}:
        yield f"litter: {litter}"
    if open_descriptors() != descriptors:
        yield "a descriptor is left open"


CODES = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS]


@pytest.fixture
def checkpointer(make_checkpointer):
    """One that has saved `model_1.pt`."""
    made = make_checkpointer()
    made.save(checkpoint(1.0), 1)
    return made


@pytest.fixture
def calls(checkpointer, seam) -> list[str]:
    """The system calls of a save over an older file, in their order."""
    counting = Failing(-1, 0)
    seam(counting)
    checkpointer.save(checkpoint(1.0), 1)
    seam()
    return counting.made


def keeping_aside(calls: list[str]) -> range:
    """Where the old file is given a second name: between the new one's closing and the rename."""
    rename = calls.index("rename")
    return range(rename - calls[:rename][::-1].index("close"), rename)


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "flock"])
def test_an_old_file_that_cannot_be_kept_aside_does_not_stop_the_new_one(
    checkpointer, calls, tmp_path, seam, call, code
):
    (number,) = [one for one in keeping_aside(calls) if calls[one] == call]
    seam(Failing(number, code))
    checkpointer.save(checkpoint(3.0), 1)
    seam()
    assert checkpointer.load().module_interface_state["small"].tolist() == [3.0] * 3
    assert os.listdir(tmp_path / "checkpoints") == ["model_1.pt"]


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "flock", "dup", "write", "fsync", "close", "rename"])
def test_when_a_call_before_the_new_file_is_in_place_fails_the_error_tells_why_and_the_old_file_stands(
    checkpointer, calls, seam, call, code
):
    numbers = [
        number
        for number, name in enumerate(calls[: calls.index("rename") + 1])
        if name == call and number not in keeping_aside(calls)
    ]
    found = []
    for number in numbers:
        failing = Failing(number, code)
        faults = faults_of_a_failed_save(checkpointer, seam, failing, code)
        found += [f"call {number}: {fault}" for fault in faults]
        assert failing.struck == call
        checkpointer.save(checkpoint(3.0), 1)
        assert checkpointer.load().module_interface_state["small"].tolist() == [3.0] * 3
    assert numbers or call in {"flock", "dup"}  # without these a publish would be as good
    assert not found, "\n".join(found)


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_when_the_fsync_of_the_directory_fails_the_error_tells_why_and_the_old_file_stands(
    checkpointer, calls, seam, code
):
    number = calls.index("fsync", calls.index("rename"))
    failing = Failing(number, code)
    found = list(faults_of_a_failed_save(checkpointer, seam, failing, code))
    assert not found, "\n".join(found)


def test_a_failed_close_after_the_new_file_is_in_place_does_not_read_as_a_failed_save(
    checkpointer, calls, tmp_path, seam
):
    closes = [number for number, name in enumerate(calls) if name == "close" and "rename" in calls[:number]]
    for number in closes:
        failing = Failing(number, errno.EIO)
        seam(failing)
        path = checkpointer.save(checkpoint(float(number)), 1)
        seam()
        assert failing.struck == "close"
        assert path == str(tmp_path / "checkpoints" / "model_1.pt")
        assert checkpointer.load().module_interface_state["small"].tolist() == [number] * 3
        assert os.listdir(tmp_path / "checkpoints") == ["model_1.pt"]


@pytest.mark.parametrize("later", [errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_the_error_of_a_failed_save_is_its_first_cause_even_when_tidying_up_fails_too(
    checkpointer, calls, seam, later
):
    for number in [calls.index(name) for name in ("write", "fsync", "rename")]:
        seam(Failing(number, errno.ENOSPC, later))
        with pytest.raises(StorageError) as caught:
            checkpointer.save(checkpoint(2.0), 1)
        seam()
        assert caught.value.errno == errno.ENOSPC
        assert os.strerror(errno.ENOSPC) in str(caught.value)
        assert checkpointer.load().module_interface_state["small"].tolist() == [1.0] * 3


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_whichever_call_fails_while_a_save_makes_its_directory_the_error_names_it_and_no_file_is_left(
    make_checkpointer, tmp_path, seam, code
):
    for number in range(5):  # mkdir, open, fsync, close; then the next one's mkdir
        save_dir = tmp_path / str(number) / "below"
        checkpointer = make_checkpointer(save_dir=str(save_dir))
        seam(Failing(number, code))
        with pytest.raises(StorageError) as caught:
            checkpointer.save(checkpoint(1.0), 1)
        seam()
        assert caught.value.errno == code
        assert str(save_dir) in str(caught.value)
        assert not [name for _, _, names in os.walk(tmp_path / str(number)) for name in names]
        assert checkpointer.save(checkpoint(1.0), 1) == str(save_dir / "model_1.pt")


@pytest.mark.parametrize("free", [0, 1, 2])
def test_a_process_out_of_descriptors_gets_an_error_and_leaves_no_litter(tmp_path, free):
    publish(tmp_path / "model_1.pt", lambda target: target.put(b"old"), 3)
    in_use = open_descriptors()
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unused = [fd for fd in range(len(in_use) + free + 1) if fd not in in_use]
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused[free], hard))
    try:
        with pytest.raises(StorageError) as caught:
            publish(tmp_path / "model_1.pt", lambda target: target.put(b"new"), 3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    assert caught.value.errno == errno.EMFILE
    assert str(tmp_path / "model_1.pt") in str(caught.value)
    assert os.listdir(tmp_path) == ["model_1.pt"]
    assert (tmp_path / "model_1.pt").read_bytes() == b"old"
    assert open_descriptors() == in_use


MANIFEST = Manifest(kind=Kind.CHECKPOINT, index=1, created="2026-11-23T00:00:00Z", run_id="0", save_number=1)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(largest=st.one_of(st.just(1), st.integers(1, 5000)), seed=st.integers(0, 2**32))
def test_a_file_is_the_same_however_little_each_write_takes(tmp_path, seam, largest, seed):
    state = {"weight": torch.arange(500.0), "name": "\u00e9" * 50, "empty": torch.empty(0)}
    writer.write_file(tmp_path / "whole.pt", state, MANIFEST)

    chance = random.Random(seed)

    def short(name: str, real: Callable, *args, **kwargs):
        if name == "write":
            return real(args[0], args[1][: chance.randint(1, largest)])
        return real(*args, **kwargs)

    seam(short)
    writer.write_file(tmp_path / "pieces.pt", state, MANIFEST)
    seam()
    assert (tmp_path / "pieces.pt").read_bytes() == (tmp_path / "whole.pt").read_bytes()
