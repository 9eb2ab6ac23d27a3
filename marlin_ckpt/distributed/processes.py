"""Which process a rank is, and whether that has ended, where it runs on this machine."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_STATE, _STARTED = 0, 19  # in stat(5) of proc, behind the name
_ENDED = "ZX"


def own() -> bytes:
    """What tells this process from all others, on this machine and on others; b"" where that is not known."""
    try:
        return f"{_machine()} {os.getpid()} {_stat(os.getpid())[_STARTED]}".encode()
    except OSError:
        return b""


def has_ended(process: bytes) -> bool:
    """Whether a process has ended; False where that cannot be known, as of another machine's.

    Args:
        process: what `own` has returned there.
    """
    if not process:
        return False
    machine, pid, started = process.decode().rsplit(" ", 2)
    try:
        if machine != _machine():
            return False
        stat = _stat(int(pid))
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
    return stat[_STATE] in _ENDED or stat[_STARTED] != started


def _machine() -> str:
    """This start of the machine, and the numbers of processes that hold here: a container has its own."""
    boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"


def _stat(pid: int) -> list[str]:
    text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()
