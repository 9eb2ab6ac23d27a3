"""What `Saver` calls when a file is durable or a save has failed, and what it raises."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from typing import Any

import pytest
import torch

from marlin_ckpt import Saver, SaveReport, StorageError, UnsavableStateError, save
from marlin_ckpt.directory import catalog
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.saving.copying.arena import Arena
from tests.support import warm
from tests.support.async_runs import Gate
from tests.support.folders import REPOSITORY

BOTH = pytest.mark.parametrize("is_async", [True, False])


class UploadError(Exception):
    """What a user's callback raises: none of ours."""


def full_disk(*_: Any) -> None:
    raise StorageError("cannot write: no space left", errno=errno.ENOSPC)


@BOTH
def test_on_durable_is_called_once_for_each_file_when_it_is_there_and_before_the_next_save(
    tmp_path, is_async
):
    seen: list[tuple[Any, ...]] = []
    begun: list[int] = []

    def durable(report: SaveReport) -> None:
        whole = torch.load(report.path)["number"]
        seen.append((whole, report.index, threading.current_thread().name, max(begun)))

    with Saver(asynchronous=is_async, on_durable=durable) as saver:
        for number in range(5):
            saver.save(Numbered(begun, number), tmp_path / f"step_{number}.pt")
        saver.wait()
        assert len(seen) == 5
    thread = "marlin-ckpt save" if is_async else threading.current_thread().name
    assert [one[:3] for one in seen] == [(number, number, thread) for number in range(5)]
    assert all(latest in {number, number + 1} for number, *_, latest in seen)


class Numbered(torch.nn.Module):
    """Notes when its state is asked for."""

    def __init__(self, asked: list[int], number: int) -> None:
        super().__init__()
        self.asked, self.number = asked, number

    def state_dict(self, *_: Any, **__: Any) -> Any:
        self.asked.append(self.number)
        return {"number": self.number}


def test_the_next_save_is_not_written_before_on_durable_has_returned(tmp_path, monkeypatch):
    order: list[str] = []
    write, returns = writer.write_image, threading.Event()

    def noted(path: str, *rest: Any) -> Any:
        order.append("write " + os.path.basename(path))
        return write(path, *rest)

    def durable(report: SaveReport) -> None:
        if report.index == 0:
            returns.wait(0.2)  # long enough for a save that does not wait
        order.append(f"durable {report.index}")

    monkeypatch.setattr(writer, "write_image", noted)
    with Saver(on_durable=durable) as saver:
        for number in range(2):
            saver.save({"a": 1}, tmp_path / f"step_{number}.pt")
    assert order == ["write step_0.pt", "durable 0", "write step_1.pt", "durable 1"]


@pytest.mark.parametrize("ask", ["save", "wait", "close", "with"])
def test_what_on_durable_raises_is_raised_by_the_next_call_once_and_the_file_is_there(tmp_path, ask):
    def durable(report: SaveReport) -> None:
        if report.index == 0:
            raise UploadError("the bucket is gone")

    saver = Saver(on_durable=durable)
    saver.save({"a": 1}, tmp_path / "step_0.pt")
    calls = {
        "save": lambda: saver.save({"a": 1}, tmp_path / "step_1.pt"),
        "wait": saver.wait,
        "close": saver.close,
        "with": lambda: saver.__exit__(None, None, None),
    }
    with pytest.raises(UploadError, match="the bucket is gone") as caught:
        calls[ask]()
    assert "in durable" in "".join(traceback.format_exception(caught.value))
    saver.wait()
    saver.close()
    assert sorted(os.listdir(tmp_path)) == ["step_0.pt"] + ["step_1.pt"] * (ask == "save")
    assert [one.index for one in saver.take_reports()] == [0] + [1] * (ask == "save")


def test_without_a_thread_what_on_durable_raises_is_raised_by_save_and_the_file_has_its_number(tmp_path):
    def durable(report: SaveReport) -> None:
        if report.index == 0:
            raise UploadError

    with Saver(asynchronous=False, on_durable=durable, on_error=pytest.fail) as saver:
        with pytest.raises(UploadError):
            saver.save({"a": 1}, tmp_path / "step_0.pt")
        saver.save({"a": 1}, tmp_path / "step_1.pt")
    found = [inspect(catalog.entry(tmp_path / f"step_{number}.pt")).manifest for number in range(2)]
    assert [one.save_number for one in found] == [1, 2]


@pytest.mark.parametrize("fails", ["the disk", "on_durable"])
def test_on_error_gets_what_failed_in_place_of_the_next_call(tmp_path, monkeypatch, fails):
    errors: list[Exception] = []

    def durable(_: SaveReport) -> None:
        if fails == "on_durable":
            raise UploadError("the bucket is gone")

    if fails == "the disk":
        monkeypatch.setattr(writer, "write_image", full_disk)
    with Saver(on_durable=durable, on_error=errors.append) as saver:
        for number in range(2):
            saver.save({"a": 1}, tmp_path / f"step_{number}.pt")
        saver.wait()
    kind, text = {
        "the disk": (StorageError, "no space left"), "on_durable": (UploadError, "in durable"),
    }[fails]  # fmt: skip
    assert [type(one) for one in errors] == [kind] * 2
    assert all(text in "".join(traceback.format_exception(one)) for one in errors)
    assert all(one.__traceback__ is None for one in errors)  # its frames would hold the state


def test_what_on_error_raises_is_raised_by_the_next_call(tmp_path, monkeypatch):
    def fatal(error: Exception) -> None:
        raise UploadError from error

    monkeypatch.setattr(writer, "write_image", full_disk)
    with Saver(on_error=fatal) as saver:
        saver.save({"a": 1}, tmp_path / "x.pt")
        with pytest.raises(UploadError):
            saver.wait()


def test_what_fails_before_save_returns_is_raised_there_and_is_not_for_on_error(tmp_path):
    with Saver(on_error=pytest.fail) as saver, pytest.raises(UnsavableStateError):
        saver.save({"lock": threading.Lock()}, tmp_path / "x.pt")


@pytest.mark.parametrize("fails", ["the disk", "on_durable"])
def test_an_exception_on_its_way_is_not_replaced_by_that_of_a_save(tmp_path, monkeypatch, caplog, fails):
    def durable(_: SaveReport) -> None:
        raise UploadError("no space left in the bucket")

    if fails == "the disk":
        monkeypatch.setattr(writer, "write_image", full_disk)
    with pytest.raises(ZeroDivisionError), Saver(on_durable=durable) as saver:
        saver.save({"a": 1}, tmp_path / "x.pt")
        raise ZeroDivisionError
    assert "A save failed: " in caplog.text
    assert "no space left" in caplog.text


@BOTH
@pytest.mark.parametrize("call", ["save", "wait", "close"])
def test_what_on_durable_asks_of_its_own_saver_is_refused_and_does_not_hang(tmp_path, is_async, call):
    caught: list[Any] = []

    def durable(_: SaveReport) -> None:
        calls = {
            "save": lambda: saver.save({"a": 1}, tmp_path / "again.pt"),
            "wait": saver.wait,
            "close": saver.close,
        }
        if not caught:
            with pytest.raises(StorageError, match="in the middle of a save") as error:
                calls[call]()
            caught.append(error.value.errno)
            save({"a": 1}, tmp_path / "other.pt")  # by itself it may

    with Saver(asynchronous=is_async, on_durable=durable) as saver:
        saver.save({"a": 1}, tmp_path / "x.pt")
        saver.save({"a": 1}, tmp_path / "y.pt")
    assert caught == [errno.EDEADLK]
    assert sorted(os.listdir(tmp_path)) == ["other.pt", "x.pt", "y.pt"]


def test_a_signals_handler_is_refused_by_the_saver_that_it_interrupts(tmp_path, monkeypatch):
    saver, caught, room = Saver(), [], Arena.room

    def handler(*_: Any) -> None:
        with pytest.raises(StorageError, match="in the middle of a save") as error:
            saver.save({"a": 1}, tmp_path / "handler.pt")
        caught.append(error.value.errno)

    def interrupted(*args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        return room(*args, **options)

    monkeypatch.setattr(Arena, "room", interrupted)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        saver.save({"a": 1}, tmp_path / "x.pt")
    finally:
        signal.signal(signal.SIGUSR1, before)
    saver.close()
    assert (caught, os.listdir(tmp_path)) == ([errno.EDEADLK], ["x.pt"])


def test_a_forked_child_neither_waits_for_the_parents_save_nor_is_told_of_it(tmp_path, monkeypatch):
    gate, saver = Gate(monkeypatch), Saver()
    saver.save({"a": 1}, tmp_path / "x.pt")
    assert gate.reached.wait(60)
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(60)
            gate.opened.set()
            saver.wait()
            saver.save({"a": 2}, tmp_path / "child.pt")
            saver.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gate.opened.set()
    saver.close()
    assert sorted(os.listdir(tmp_path)) == ["child.pt", "x.pt"]


def test_the_interpreter_finishes_a_save_before_it_ends_and_fails_with_one_that_failed(tmp_path):
    script = """
import sys, torch
from marlin_ckpt import Saver, StorageError
from marlin_ckpt.formats.torch import writer

def durable(report):
    print("durable", report.index)
    if sys.argv[2] == "on_durable fails":
        raise ValueError("no upload")

def fail(*_):
    raise StorageError("cannot write: no space left")

if sys.argv[2].startswith("the disk is full"):
    writer.write_image = fail
one = Saver(on_durable=durable, on_error=print if "told" in sys.argv[2] else None)
one.save({"weight": torch.ones(1_000_000)}, sys.argv[1] + "/step_3.pt")
"""
    ways = ("writes", "on_durable fails", "the disk is full", "the disk is full and that is told")
    done = {
        how: warm.run(
            [sys.executable, "-c", script, str(tmp_path / how), how],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=120, is_torn_down=True,
        )
        for how in ways
    }  # fmt: skip
    assert [one.returncode for one in done.values()] == [0, 120, 120, 0]
    full = "cannot write: no space left\n"
    assert [one.stdout for one in done.values()] == ["durable 3\n", "durable 3\n", "", full]
    nobody = "A save failed, and nobody waited for it: "
    assert [one.stderr.split("\nIn the")[0].strip() for one in done.values()] == [
        "", f"{nobody}no upload", f"{nobody}{full}".strip(), "",
    ]  # fmt: skip
    assert torch.load(tmp_path / "writes" / "step_3.pt")["weight"].sum() == 1_000_000
    assert [os.listdir(tmp_path / how) for how in ways] == [["step_3.pt"], ["step_3.pt"], [], []]
