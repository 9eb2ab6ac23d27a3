"""Saves in which the kernel itself, by the hand of strace, makes system calls fail or kills the process."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from marlin_ckpt.storage.local import threads
from tests.support.folders import REPOSITORY

CODES = ["EIO", "ENOSPC", "EDQUOT", "EROFS"]
NEEDED = re.compile(
    r'openat\(.*marlin-tmp", O_RDWR|(flock|write|pwrite64|close)\(.*marlin-tmp>|fcntl\(.*marlin-tmp>, F_DUPFD'
    r"|fallocate|ftruncate|fsync|rename"
)
# Python itself makes these again, which is right for fsync too: interrupted, it has lost nothing.
MADE_AGAIN = {"openat", "flock", "fallocate", "write", "pwrite64", "ftruncate", "fsync"}
DONE_WITHOUT = [
    ("fcntl", r"F_SETFL, .*O_DIRECT", "EINVAL"),
    ("fallocate", "", "EOPNOTSUPP"),
    ("pwrite64", "", "EINVAL"),
    ("openat", "mountinfo", "EACCES"),
    ("flock", "marlin-tmp", "ENOLCK"),
    ("linkat", "", "EPERM"),
    ("openat", r'"model_3.pt", O_RDONLY', "EACCES"),
    ("fsync", r"fsync\([0-9]+<[^>]*/[0-9]+>", "EINVAL"),
    ("unlinkat", "", "EIO"),
]


class Call:
    """One system call of a save: its name, its number among those of that name, and strace's line."""

    def __init__(self, kind: str, name: str, number: int, line: str) -> None:
        self.kind, self.name, self.number, self.line = kind, name, number, line

    def __str__(self) -> str:
        return f"{self.kind}, {self.name} {self.number}"


def calls_in(kind: str, log: list[str]) -> list[Call]:
    counted: Counter = Counter()
    calls = []
    for line in log:
        if match := re.match(r"([0-9]+) +([a-z0-9]+)\(", line):
            counted[match.groups()] += 1  # strace counts in each thread
            calls.append(Call(kind, match[2], counted[match.groups()], line))
    # The threads of a save share its writes as chance has it: one of them makes this many in every save.
    certain = -(-sum(call.name == "pwrite64" for call in calls) // threads._THREADS)
    return [call for call in calls if call.name != "pwrite64" or call.number <= certain]


@contextlib.contextmanager
def saving(directory: Path) -> Iterator[Callable[..., dict]]:
    """Saves over an older file, in a process that strace attaches to, and tells what is then there."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    command = [sys.executable, str(REPOSITORY / "tests" / "support" / "traced_saves.py"), str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:

        def save(kind: str, inject: str | None = None) -> dict:
            process.stdin.write(json.dumps([kind, inject]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        if refused := save("buffered").get("refused"):
            pytest.skip(f"strace cannot attach to a process here: {refused}")
        yield save
        process.stdin.close()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict]]:
    with saving(tmp_path_factory.mktemp("traced")) as found:
        yield found


@pytest.fixture(scope="module", params=["direct", "buffered"])
def calls(request, save) -> list[Call]:
    """The system calls of a save over an older file, in their order."""
    found = save(request.param)
    assert (found["errno"], found["holds"]) == (0, "new")
    made = calls_in(request.param, found["log"])
    if request.param == "direct" and "pwrite64" not in {call.name for call in made}:
        pytest.skip("the temporary directory is in memory or its file system has no O_DIRECT")
    return made


def faults_of(found: dict, code: int, holds: str) -> list[str]:
    synced = [re.sub(r"\).*", "", line) for line in found["log"] if "fsync(" in line]
    failed = [re.sub(r"\).*", "", line) for line in found["log"] if re.search(r"fsync.*INJECTED", line)]
    wrong = {
        f"errno {found['errno']}": found["errno"] != code,
        f"holds {found['holds']}": found["holds"] != holds,
        f"litter {found['litter']}": found["litter"],
        f"left {found['left']}": found["left"],
        f"changed {found['changed']}": found["changed"],
        "fsync repeated": code and any(synced.count(one) > 1 for one in failed),
        "nothing was injected": not any("INJECTED" in line for line in found["log"]),
    }
    return [what for what, is_wrong in wrong.items() if is_wrong]


def killed_wrongly(save: Callable[..., dict], calls: list[Call], tried: Iterable[int]) -> list[str]:
    """Kills a save at each of these calls, and says where another file is left than can be."""
    renamed = next(number for number, call in enumerate(calls) if call.name.startswith("rename"))
    wrong = []
    for number in tried:
        call = calls[number]
        found = save(call.kind, f"{call.name}:signal=KILL:when={call.number}")
        holds = {"old"} if number < renamed else {"old", "new"} if number == renamed else {"new"}
        if (
            found["errno"] != -signal.SIGKILL
            or found["left"]
            or found["changed"]
            or found["holds"] not in holds
        ):
            wrong.append(f"{call}: {found}")
    return wrong


def test_a_call_that_the_kernel_fails_is_the_errno_of_the_error_and_the_old_file_stands(calls, save, cases):
    needed = [call for call in calls if NEEDED.search(call.line)]
    # In a sample each of the calls still fails once, each time in another way.
    sample = [(call, CODES[number % 4], "+"[: number // 2 % 2]) for number, call in enumerate(needed)]
    rest = [one for one in itertools.product(needed, CODES, ["", "+"]) if one not in sample]
    wrong = []
    for call, code, lasting in [*sample, *rest][: cases(len(sample), len(sample) + len(rest))]:
        found = save(call.kind, f"{call.name}:error={code}:when={call.number}{lasting}")
        faults = faults_of(found, getattr(errno, code), "old")
        wrong += [f"{call}, {code}{lasting}: {one}" for one in faults]
    names = {call.name for call in needed}
    assert names >= {"openat", "flock", "fcntl", "fsync", "close"}
    assert names >= {"fallocate", "pwrite64", "ftruncate"} or "write" in names
    assert any(name.startswith("rename") for name in names)
    assert len(needed) >= 10
    assert not wrong, "\n".join(wrong)


def test_an_interrupted_call_is_made_again_or_is_the_errno_of_the_error(calls, save, cases):
    needed = [call for call in calls if NEEDED.search(call.line)]
    wrong = []
    for call in random.Random(1).sample(needed, cases(4, len(needed))):
        found = save(call.kind, f"{call.name}:error=EINTR:when={call.number}")
        expected = (0, "new") if call.name in MADE_AGAIN else (errno.EINTR, "old")
        wrong += [f"{call}: {one}" for one in faults_of(found, *expected)]
    assert not wrong, "\n".join(wrong)


def test_what_the_kernel_refuses_and_a_save_needs_not_does_not_stop_it(calls, save):
    tried, wrong = 0, []
    for name, pattern, code in DONE_WITHOUT:
        for call in [one for one in calls if one.name == name and re.search(pattern, one.line)][:1]:
            found = save(call.kind, f"{name}:error={code}:when={call.number}")
            if name == "unlinkat":
                assert len(found["litter"]) == 1
                found["litter"] = []
            wrong += [f"{call}, {code}: {one}" for one in faults_of(found, 0, "new")]
            # glibc emulates a missing fallocate(2) by writing one byte into each block.
            wrong += [line for line in found["log"] if re.search(r"pwrite64\(.*, 1, [0-9]+\)", line)]
            tried += 1
    assert tried >= 5
    assert not wrong, "\n".join(wrong)


def test_a_kill_at_any_call_leaves_the_old_or_the_new_file_and_nothing_that_the_next_start_does_not_clear(
    calls, save, cases
):
    tried = random.Random(2).sample(range(len(calls)), cases(6, len(calls)))
    assert killed_wrongly(save, calls, tried) == []


@pytest.mark.parametrize("fault", ["error=ENOSPC", "signal=KILL"])
def test_a_plain_torch_save_is_torn_by_the_same(save, fault):
    # Shows that what is told of a save can be bad.
    found = save("plain", f"write,writev:{fault}:when=1")
    assert found["errno"] != 0
    assert found["holds"] == "torn"
