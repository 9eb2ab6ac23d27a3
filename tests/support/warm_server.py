"""Imports torch and forks, on request, what begins like a process of its own; see warm.py.

python -P warm_server.py DESCRIPTOR REPOSITORY [MODULE ...]: the number of a socket that brings requests,
and what is imported beside torch and this package.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import types
from typing import Any

ANSWER = struct.Struct("i")
_MOST_BYTES = 1 << 20  # of a request
_MOST_DESCRIPTORS = 32
_BEYOND = 200  # descriptors that nobody asks for by their numbers
_ends_with: list[int] = []  # the exit code, if the end of the interpreter may be cut short


def cut_short() -> None:
    """Ends the process where the interpreter would begin to take down all modules.

    Unless it would do something else there: say that a stream cannot be flushed, or go on as the test wants.
    """
    if not _ends_with or any(type(one) is not io.TextIOWrapper for one in (sys.stdout, sys.stderr)):
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(_ends_with[0])


def run(code: types.CodeType, *, is_torn_down: bool) -> None:
    """Runs the main module, and remembers how that ended."""
    ended = None
    try:
        exec(code, sys.modules["__main__"].__dict__)
        ended = 0
    except SystemExit as error:
        ended = 0 if error.code is None else error.code if isinstance(error.code, int) else 1
        raise
    except Exception:
        ended = 1
        raise
    finally:
        if ended is not None and not is_torn_down:
            _ends_with.append(ended & 0xFF)


def warm_up(repository: str, *more: str) -> None:
    """Imports what the tests' processes import: no more than torch does by itself, and no command."""
    import torch

    sys.path.insert(0, repository)
    importlib.import_module("marlin_ckpt")
    for one in ("marlin_ckpt.training.trainer", *more):
        importlib.import_module(one)
    sys.path.remove(repository)
    # The first optimizer imports for seconds; making one draws nothing and starts no thread.
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]).zero_grad()


def serve(asked: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Forks for each request; returns in the child, with what is asked of it and its descriptors."""
    waiting: dict[int, tuple[int, int]] = {}  # by the descriptor that tells when a child has ended
    poll = select.poll()
    poll.register(asked, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready in waiting:
                poll.unregister(ready)
                pid, answers = waiting.pop(ready)
                with contextlib.suppress(BrokenPipeError):
                    os.write(answers, ANSWER.pack(os.waitpid(pid, 0)[1]))
                os.close(ready)
                os.close(answers)
                continue
            data, received, _, _ = socket.recv_fds(asked, _MOST_BYTES, _MOST_DESCRIPTORS)
            if not data:
                os._exit(0)
            answers, *descriptors = received
            pid = os.fork()
            if pid == 0:
                asked.detach()
                return json.loads(data), descriptors
            os.write(answers, ANSWER.pack(pid))
            for one in descriptors:
                os.close(one)
            child = os.pidfd_open(pid)
            waiting[child] = pid, answers
            poll.register(child, select.POLLIN)


def begin(request: dict[str, Any], received: list[int], paths: list[str]) -> None:
    """Makes of a forked process what a fresh one would be."""
    import numpy as np
    import torch

    if request["is_session"]:
        os.setsid()
    place(received, request["descriptors"])
    os.chdir(request["directory"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    added = os.environ.get("PYTHONPATH", "")
    first = added.split(os.pathsep) if added else []
    sys.path[:] = [*first, *(one for one in paths if one not in first)]
    sys.path_importer_cache.clear()
    signal.signal(
        signal.SIGINT, signal.default_int_handler if request["is_interruptible"] else signal.SIG_IGN
    )
    random.seed()
    np.random.seed()  # noqa: NPY002 - the global one
    torch.default_generator.seed()
    open_streams()


def open_streams() -> None:
    """Opens the standard streams as Python does when it starts."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        through = fd > 0 and bool(os.environ.get("PYTHONUNBUFFERED"))
        file = open(fd, "wb" if fd else "rb", buffering=0 if through else -1, closefd=False)  # noqa: SIM115
        by_line = fd > 0 and not through and (name == "stderr" or file.isatty())
        new = io.TextIOWrapper(file, old.encoding, old.errors, line_buffering=by_line, write_through=through)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def place(received: list[int], numbers: list[int]) -> None:
    """Gives descriptors the numbers that are asked for, and closes all others."""
    moved = [fcntl.fcntl(one, fcntl.F_DUPFD, _BEYOND) for one in received]
    for one, number in zip(moved, numbers, strict=True):
        os.dup2(one, number)
    for one in map(int, os.listdir("/proc/self/fd")):
        if one not in numbers:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(one)


def main_module(arguments: list[str]) -> tuple[str, str]:
    """Makes the main module as `python ARGUMENTS` would; returns the source of what it runs, and its name."""
    how, *rest = arguments
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    if how == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        return rest[0], "<string>"
    if how == "-m":
        sys.argv = ["-m", *rest[1:]]
        sys.path.insert(0, os.getcwd())
        return f"__import__('runpy')._run_module_as_main({rest[0]!r})", "<string>"
    sys.argv = arguments
    sys.path.insert(0, os.path.dirname(os.path.realpath(how)))
    main.__dict__["__file__"] = os.path.abspath(how)
    with open(how, encoding="utf-8") as file:
        return file.read(), how


if __name__ == "__main__":
    _socket = socket.socket(fileno=int(sys.argv[1]))
    _socket.set_inheritable(False)
    if "torch" in sys.modules:  # forked itself, and so ended by what it was forked from
        sys.path.remove(os.path.dirname(__file__))
    else:
        atexit.register(cut_short)  # before anything that torch's import registers, and so called last
    warm_up(*sys.argv[2:])
    _paths, _own = [*sys.path], sys.modules["__main__"]
    gc.freeze()  # which the children need not look through at their end
    _request, _received = serve(_socket)
    begin(_request, _received, _paths)
    _code = compile(*main_module(_request["arguments"]), "exec")
    # At the top, so that the interpreter ends as it always does: by the exception or the code, after threads.
    run(_code, is_torn_down=_request["is_torn_down"])
