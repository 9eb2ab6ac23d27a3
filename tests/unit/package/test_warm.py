"""What the tests start in forked processes begins and ends as in fresh ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.support import warm
from tests.support.folders import REPOSITORY

_FACTS = """
import atexit, json, os, signal, sys, threading
numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD, signal.SIGUSR1]
handlers = [str(signal.getsignal(number)).partition(" at ")[0] for number in numbers]
streams = [(one.encoding, one.errors, one.line_buffering) for one in (sys.stdin, sys.stdout, sys.stderr)]
umask = os.umask(0)
atexit.register(print, "at exit")
facts = {
    "arguments": sys.argv, "paths": sys.path, "directory": os.getcwd(), "umask": umask, "name": __name__,
    "is main": sys.modules["__main__"].__dict__ is globals(), "file": globals().get("__file__"),
    "environment": [len(os.environ), os.environ["ONE"], os.environ["PYTHONPATH"]],
    "descriptors": os.listdir("/proc/self/fd"), "handlers": handlers, "streams": streams,
    "threads": [thread.name for thread in threading.enumerate()], "input": sys.stdin.read(),
    "group": os.getpgrp(), "session": os.getsid(0),
}
print(json.dumps(facts))
print("told", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def both(tmp_path):
    """Runs one thing in a fresh process and in a forked one."""

    def run(*arguments, **options) -> list[subprocess.CompletedProcess]:
        command = [sys.executable, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ONE": "\u00e9"}
        options |= {"env": environment, "cwd": tmp_path, "timeout": 60, "capture_output": True}
        ended = []
        for start in (subprocess.run, warm.run):
            given = options.get("stdin")
            if given is not None:
                given.seek(0)
            ended.append(start(command, **options))
        return ended

    return run


@pytest.mark.parametrize("how", ["-c", "-m", "script"])
def test_all_that_a_process_is_given_is_that_of_a_fresh_one(both, tmp_path, how):
    (tmp_path / "facts.py").write_text(_FACTS)
    (tmp_path / "input").write_text("read")
    program = {"-c": ["-c", _FACTS], "-m": ["-m", "facts"], "script": ["facts.py"]}[how]
    with open(tmp_path / "input", "rb") as given:
        fresh, forked = both(*program, "7", "b", stdin=given)
    facts, expected = (json.loads(one.stdout.splitlines()[0]) for one in (forked, fresh))
    assert facts == expected
    assert (forked.returncode, forked.stderr) == (fresh.returncode, fresh.stderr) == (7, b"told\n")
    assert forked.stdout.endswith(b"at exit\n")


@pytest.mark.parametrize(
    "ending",
    [
        "raise SystemExit",
        "sys.exit('a word')",
        "1 / 0",
        "raise KeyboardInterrupt",
        "sys.stdout.write('a word without an end'); sys.exit(300)",
        "print('a word'); os.close(1)",
        "os.abort()",
        "os._exit(3)",
    ],
)
def test_it_ends_as_a_fresh_one(both, ending):
    fresh, forked = both("-c", f"import os, sys; {ending}")
    assert (forked.returncode, forked.stdout) == (fresh.returncode, fresh.stdout)
    assert forked.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]


def test_it_waits_for_its_threads_and_draws_random_numbers_of_its_own():
    script = """
import random, threading, numpy, torch
print(random.random(), numpy.random.rand(), float(torch.rand(1)))
threading.Timer(0.05, print, ["late"]).start()
"""
    said = [warm.run([sys.executable, "-c", script], capture_output=True, timeout=60).stdout for _ in "ab"]
    first, second = (one.split() for one in said)
    assert first[3] == second[3] == b"late"
    assert {*first} & {*second} == {b"late"}


def test_it_is_told_apart_by_its_number_waited_for_and_killed():
    command = [sys.executable, "-c", "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"]
    with warm.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert int(process.stdout.readline()) == process.pid
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0)
        process.send_signal(signal.SIGKILL)
    assert process.wait() == process.returncode == process.poll() == -signal.SIGKILL


def test_what_only_a_fresh_process_sees_in_its_environment_is_given_to_a_fresh_one():
    environment = {**os.environ, "PYTHONOPTIMIZE": "1"}
    command = [sys.executable, "-c", "import sys; print(sys.flags.optimize, 'torch' in sys.modules)"]
    assert warm.run(command, env=environment, capture_output=True, timeout=60).stdout == b"1 False\n"
    assert warm.run(command, capture_output=True, timeout=60).stdout == b"0 True\n"
