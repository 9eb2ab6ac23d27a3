"""Who holds a lease: in the file or object that says so, and in messages."""

import datetime
import math
import os
import socket
from typing import Any

from marlin_ckpt.directory.leasing import processes
from marlin_ckpt.errors import DirectoryInUseError

ALONE = "clean"  # in the place of a run's id: what removes shares it with nobody
_MOST_LETTERS = 80  # of a name that anybody may have written


def excludes(one: str, other: str) -> bool:
    """Whether two holders in one process are of different runs, as far as these are known."""
    return ALONE in (one, other) or bool(one and other and one != other)


def in_use(directory: str, holder: dict[str, Any], run_id: str) -> DirectoryInUseError:
    """The error where another holds the lease of a directory.

    Args:
        directory: its path or URL.
        holder: what is known of it; `left_s`: in how many seconds the lease ends if it is dead.
        run_id: of the run that wanted it, or `ALONE`.
    """
    hint = "stop it, or choose another checkpointer.save_dir"
    if run_id == ALONE:
        hint = "stop it, or let it remove its checkpoints itself, by checkpointer.keep"
    if holder.get("left_s"):
        hint += f"; if it has died, its lease ends in {math.ceil(holder['left_s'])} s"
    does = "removes checkpoints there" if holder.get("removes") else "saves there"
    return DirectoryInUseError(f"{_name(holder)} {does}", directory, hint, holder=holder)


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another run"
    return f"{'marlin-ckpt clean' if holder.get('removes') else 'another run'} ({which(holder)})"


def which(holder: dict[str, Any]) -> str:
    """A holder in a few words."""
    run_id, pid, host = (str(holder.get(key) or "")[:_MOST_LETTERS] for key in ("run_id", "pid", "host"))
    run = f"run {run_id}, " if run_id else ""
    return f"{run}process {pid} on {host}"


def this_process(run_id: str) -> dict[str, Any]:
    """What this process says of itself as a holder.

    Args:
        run_id: of the run that holds, "" where it is not known, or `ALONE`.
    """
    removes = run_id == ALONE
    run_id = "" if removes else run_id
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    who = {"host": socket.gethostname(), "pid": os.getpid(), "run_id": run_id}
    return {**who, **processes.surroundings(), "since": now, "removes": removes}
