"""How much memory this process may have, by the machine and by the control groups that it is in."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

_CGROUPS, _OWN = "/sys/fs/cgroup", "/proc/self/cgroup"


class _Names(NamedTuple):
    """The files of a control group that hold its limit and its use, and the key of its reclaimable cache."""

    limit: str
    used: str
    cache: str


# https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/memory.html
_VERSION_2 = _Names("memory.max", "memory.current", "inactive_file")
_VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def limit_bytes(memory_bytes: int, groups: str = _CGROUPS, own: str = _OWN) -> int | None:
    """The least memory that a control group of this process allows; None where none is below the machine's.

    Args:
        memory_bytes: what the machine has.
        groups: where the control groups are mounted.
        own: the file that says which of them this process is in: cgroups(7).
    """
    limits = []
    for folder, names in _groups_of(groups, own):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            limits.append(int(_read(folder, names.limit)))
    least = min(limits, default=memory_bytes)
    return least if least < memory_bytes else None


def available_bytes(groups: str = _CGROUPS, own: str = _OWN, machine: str = "/proc/meminfo") -> int | None:
    """How much more memory this process can have without swapping; None where the system does not say.

    Args:
        groups: where the control groups are mounted.
        own: the file that says which of them this process is in: cgroups(7).
        machine: what the machine says of its memory: proc_meminfo(5).
    """
    found = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        found.append(_keyed(_read("", machine).replace(":", ""))["MemAvailable"] * 1024)
    for folder, names in _groups_of(groups, own):
        with contextlib.suppress(OSError, ValueError, KeyError):
            free = int(_read(folder, names.limit)) - int(_read(folder, names.used))
            found.append(max(free + _keyed(_read(folder, "memory.stat"))[names.cache], 0))
    return min(found, default=None)


def _groups_of(groups: str, own: str) -> Iterator[tuple[str, _Names]]:
    """The folders that may hold a limit: of the process's own groups, of version 2 and 1, and those above."""
    with contextlib.suppress(OSError, ValueError):
        for line in _read("", own).splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                top, names = groups, _VERSION_2
            elif "memory" in controllers.split(","):
                top, names = f"{groups}/memory", _VERSION_1
            else:
                continue
            parts = path.strip("/").split("/")
            # In a container the path may be one of the host's; then the group at the top is the container's.
            for depth in range(len(parts) + 1):
                yield os.path.join(top, *parts[:depth]), names


def _read(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return file.read()


def _keyed(text: str) -> dict[str, int]:
    """The numbers of a file of lines such as `inactive_file 4096`, by their keys."""
    return {key: int(number) for key, number, *_ in map(str.split, text.splitlines())}
