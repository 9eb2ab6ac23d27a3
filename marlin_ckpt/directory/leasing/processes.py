"""Whether the process that holds something has died, as far as this machine can prove it."""

import os
from collections.abc import Mapping
from typing import Any

_BOOT = "/proc/sys/kernel/random/boot_id"
_NAMESPACE = "/proc/self/ns/pid"


def surroundings() -> dict[str, Any]:
    """Within what a process's number means this process: one boot of a machine, and a namespace of numbers.

    Returns:
        nothing where the system does not say.
    """
    try:
        with open(_BOOT, encoding="ascii") as file:
            return {"boot": file.read(64).strip(), "namespace": os.stat(_NAMESPACE).st_ino}
    except (OSError, ValueError):
        return {}


def has_died(holder: Mapping[str, Any]) -> bool:
    """Whether a process is known to have ended.

    A host's name proves nothing: containers on several machines may have the same.

    Args:
        holder: its number as `pid`, and its `surroundings` when it was alive.
    """
    here, pid = surroundings(), holder.get("pid")
    if not here or type(pid) is not int or pid <= 0:
        return False
    if any(holder.get(name) != value for name, value in here.items()):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # somebody else's, or no number of a process
        pass
    return False
