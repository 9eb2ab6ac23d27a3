"""torchrun with two things saved: it and the ranks that it starts are forked; see warm.py.

All else is its own: how it starts ranks, watches them, ends them and starts them again. What a rank does when
torch is imported anew is shown by the campaign, which runs torchrun itself.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

from tests.support import warm

_IMPORTS = (
    "torch.distributed.run",
    "marlin_ckpt.training.parallel.backends",
    "marlin_ckpt.distributed.writer",
)
_REAL = [sys.executable, "-m", "torch.distributed.run"]


def Popen(command: list[str], **options: Any) -> subprocess.Popen:
    """Starts torchrun, as `python -m torch.distributed.run ...` does."""
    assert command[:3] == _REAL
    server = warm.server(_IMPORTS).fileno()
    start = [sys.executable, "-m", "tests.support.torchrun", str(server), *command[3:]]
    return _Warm(start, pass_fds=[server], **options)


class _Warm(warm.Popen):
    imports = _IMPORTS


class _Rank(warm.Popen):
    """A rank, for torchrun."""

    def __init__(self, args: tuple[str, ...], env: dict[str, str], **options: Any) -> None:
        python, unbuffered, *rest = args
        assert (python, unbuffered) == (sys.executable, "-u")
        super().__init__([python, *rest], env={**env, "PYTHONUNBUFFERED": "1"}, **options)


def main(server: str, *arguments: str) -> None:
    """Is torchrun."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    forks = socket.socket(fileno=int(server))
    os.set_inheritable(forks.fileno(), False)
    warm.server = lambda _: forks
    subprocess_handler.Popen = _Rank
    run.main([*arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
