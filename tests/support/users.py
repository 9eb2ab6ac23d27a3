"""An ordinary user, beside the one that runs the tests: root passes all permissions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534  # the user id that owns nothing, nobody(5)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's power to read and write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
