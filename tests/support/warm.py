"""Processes like those of `subprocess`, forked from one that has imported torch: each saves seconds.

For tests of what a process does, not of how it starts: how Python finds and imports modules, what it links
and what it measures of its memory need `subprocess`. Everything else is as in a fresh process, for what
begins there is the interpreter's main module and ends as one: arguments, environment, streams, signals and
random numbers are new, and the number of the process and how it ended are the kernel's. Once its threads and
what it registered with `atexit` are done and its streams are flushed, it is over: that the interpreter then
takes down every module of torch, which takes 0.3 s, is for tests of that end alone (`is_torn_down`).
"""

from __future__ import annotations

import atexit
import functools
import inspect
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from typing import Any

from tests.support.folders import REPOSITORY, SUPPORT

ANSWER = struct.Struct("i")
# Python, torch and the libraries below read these when they start.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "OMP_", "MKL_", "MALLOC_", "TORCH", "CUDA", "KMP_")
_READ_LATER = ("PYTHONPATH", "PYTHONUNBUFFERED", "TORCHELASTIC_", "TORCH_NCCL_")


_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


class Popen(subprocess.Popen):
    """One that was forked; a fresh one where its environment says what only a fresh one would see."""

    imports: tuple[str, ...] = ()  # what else the process that it is forked from has imported
    _answers = -1  # its number, and in the end how it ended

    def __init__(self, *given, is_torn_down: bool = False, **options):
        assert not (is_torn_down and self.imports), "what was forked twice ends as the first fork does"
        self._is_torn_down = is_torn_down
        super().__init__(*given, **options)

    def _execute_child(self, *given):
        asked = inspect.signature(super()._execute_child).bind(*given).arguments
        environment = dict(os.environ if asked["env"] is None else asked["env"])
        arguments = [*map(os.fsdecode, asked["args"])]
        assert arguments[0] == sys.executable
        if _is_read_at_start(environment):
            super()._execute_child(*given)
            return
        umask = os.umask(0o22)
        os.umask(umask)
        request = {
            "arguments": arguments[1:],
            "directory": os.fsdecode(asked["cwd"] or os.getcwd()),
            "environment": environment,
            "descriptors": [0, 1, 2, *asked["pass_fds"]],
            "is_interruptible": signal.getsignal(signal.SIGINT) is not signal.SIG_IGN,
            "is_session": asked["start_new_session"],
            "is_torn_down": self._is_torn_down,
            "umask": umask,
        }
        self._answers, answering = os.pipe()
        streams = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        descriptors = [number if one == -1 else one for number, one in enumerate(streams)]
        data = json.dumps(request).encode()
        socket.send_fds(server(self.imports), [data], [answering, *descriptors, *asked["pass_fds"]])
        os.close(answering)
        self._close_pipe_fds(*(asked[name] for name in _PIPES))
        self.pid = self._next_answer()
        self._child_created = True

    def _next_answer(self) -> int:
        answer = os.read(self._answers, ANSWER.size)
        assert answer, "the process that forks has ended"
        return ANSWER.unpack(answer)[0]

    def _wait(self, timeout):
        if self._answers == -1:
            return super()._wait(timeout)
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = os.waitstatus_to_exitcode(self._next_answer())
            os.close(self._answers)
        return self.returncode

    def _internal_poll(self, *_, **deadstate):
        if self._answers == -1:
            return super()._internal_poll(**deadstate)
        try:
            return self._wait(0)
        except subprocess.TimeoutExpired:
            return None


def run(args, *, timeout: float, capture_output: bool = False, check: bool = False, **options: Any):
    """Like `subprocess.run`."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(args, **options) as process:
        try:
            said = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    ended = subprocess.CompletedProcess(process.args, process.returncode, *said)
    if check:
        ended.check_returncode()
    return ended


def _is_read_at_start(environment: dict[str, str]) -> bool:
    changed = {name for name, _ in environment.items() ^ os.environ.items()}
    return any(name.startswith(_READ_AT_START) and not name.startswith(_READ_LATER) for name in changed)


def server(imports: tuple[str, ...]) -> socket.socket:
    """Where to ask for processes forked from one that has imported this, too."""
    return _server(os.getpid(), imports)


@functools.cache
def _server(_pid: int, imports: tuple[str, ...]) -> socket.socket:
    """Starts the process that forks, one for each that asks; it ends when nobody can ask any more.

    One that is to import more is itself forked from the one that has imported torch.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with theirs:
        script = [SUPPORT / "warm_server.py", str(theirs.fileno()), REPOSITORY, *imports]
        start, how = (Popen, []) if imports else (subprocess.Popen, ["-P"])
        server = start(
            [sys.executable, *how, *script],
            env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
        )  # fmt: skip
    atexit.register(server.wait)
    atexit.register(ours.close)
    return ours
