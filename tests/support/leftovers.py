"""What a writer may leave behind in its process: threads, and open descriptors."""

from __future__ import annotations

import contextlib
import os
import threading


def descriptors(path: str) -> list[int]:
    """Those of this process that are open on a file."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        link = f"/proc/self/fd/{name}"
        if os.path.lexists(link) and os.readlink(link) == path:
            found.append(int(name))
    return found


def threads_that_write() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("marlin-ckpt writer")]


def open_descriptors() -> set[int]:
    """Those of files and folders: a test's server in this process may open and close sockets meanwhile."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            if not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                found.add(int(fd))
    return found
