"""The workers of a loader end with their trainer, also when one is stuck in a sample and holds the GIL."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from torch.utils.data import DataLoader

from marlin_ckpt.training import workers
from tests.support import warm

_STUCK = """
import ctypes, os, sys, time
from torch.utils.data import DataLoader
from marlin_ckpt.training import workers
workers.LEFT_S = 0.5
stuck, told = os.pipe()
class Stuck:
    def __len__(self):
        return 100
    def __getitem__(self, number):
        if number >= 1:
            os.write(told, b"!")
            HOW
        return number
loader = DataLoader(Stuck(), num_workers=2, prefetch_factor=1, persistent_workers=KEPT)
workers.prepare(loader)
batches = workers.iterate(loader)
next(batches)
for _ in range(2):
    os.read(stuck, 1)
THEN
"""
_GIL = "ctypes.PyDLL(None).pause()"  # waits for a signal, and no other thread of Python runs meanwhile
_SLEEP = "time.sleep(1000)"


@pytest.mark.parametrize(
    ("how", "is_kept", "then", "code"),
    [
        (_GIL, False, "workers.end(loader, batches, is_kept=False); print('ended')", 0),
        (_SLEEP, False, "workers.end(loader, batches, is_kept=False); print('ended')", 0),
        (_GIL, True, "workers.end(loader, batches, is_kept=True); print('ended')", 0),
        (_GIL, False, "print('ended', flush=True); os.kill(os.getpid(), 9)", -signal.SIGKILL),
    ],
    ids=["shut down, GIL held", "shut down, asleep", "left to the end of the process", "killed"],
)
def test_a_worker_that_is_stuck_in_a_sample_ends_with_its_trainer(repository, how, is_kept, then, code):
    environment = {**os.environ, "PYTHONPATH": os.fspath(repository)}
    script = _STUCK.replace("HOW", how).replace("KEPT", str(is_kept)).replace("THEN", then)
    command = [sys.executable, "-c", script]
    # The workers hold the pipe of stdout: it ends when the last of them has ended.
    ended = warm.run(command, env=environment, capture_output=True, text=True, timeout=20, is_torn_down=True)
    assert (ended.returncode, ended.stderr) == (code, "")
    assert ended.stdout == "ended\n"


def test_a_worker_that_ends_by_itself_is_not_killed(monkeypatch):
    killed: list = []
    monkeypatch.setattr(workers, "_kill", killed.extend)
    loader = DataLoader(range(4), num_workers=2)
    workers.prepare(loader)
    batches = workers.iterate(loader)
    assert list(batches)
    processes = list(batches._workers)
    workers.end(loader, batches, is_kept=False)
    assert killed == []
    assert [one.exitcode for one in processes] == [0, 0]


def test_a_worker_that_another_thread_has_forked_outlives_that_thread(repository):
    script = """
import threading
from torch.utils.data import DataLoader
from marlin_ckpt.training import workers
loader = DataLoader(range(40), num_workers=1)
workers.prepare(loader)
made = []
def begin():
    made.append(workers.iterate(loader))
    next(made[0])
thread = threading.Thread(target=begin)
thread.start()
thread.join()
print(1 + sum(1 for _ in made[0]))
"""
    environment = {**os.environ, "PYTHONPATH": os.fspath(repository)}
    ended = warm.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=20
    )
    assert (ended.returncode, ended.stdout) == (0, "40\n"), ended.stderr
