"""Processes that keep cores busy while something is measured beside them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Passes over 32 MiB, more than a core's own cache: a neighbour takes memory bandwidth as well as time.
# The kernel ends it with its parent: PR_SET_PDEATHSIG is 1, see prctl(2).
_WORK = """
import ctypes
ctypes.CDLL(None).prctl(1, 9)
a, b = bytearray(32 << 20), bytearray(32 << 20)
while True:
    b[:] = a
    sum(range(1_000_000))
"""


@contextmanager
def cores(number: int) -> Iterator[None]:
    """So many processes compute until the block ends, or this process does."""
    started = [subprocess.Popen([sys.executable, "-c", _WORK]) for _ in range(number)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()
