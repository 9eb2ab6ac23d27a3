"""The memory that a call takes, and that there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def grown_mib(call: Callable[[], object]) -> float | None:
    """By how much the memory of this process grows, at most, during a call; None where nothing shows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): sets VmHWM to VmRSS
    except OSError:
        return None
    before = kib("/proc/self/status", "VmRSS")
    call()
    return (kib("/proc/self/status", "VmHWM") - before) / 1024


def kib(path: str, name: str) -> int:
    """A number of KiB in a file of /proc."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(path).read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1])
