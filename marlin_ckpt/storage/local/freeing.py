"""Frees the space of a large file that has been replaced, while the program goes on.

The file system gives it back when the last descriptor of a file without a name is closed, which of a gigabyte
takes as long as writing a tenth of it. Nothing depends on it: where the process is killed, the kernel closes
the descriptor, and after a power loss the file system frees what has no name.
"""

import contextlib
import os
import threading

from marlin_ckpt.storage.local.files import close_quietly

_LARGE_BYTES = 64 << 20  # below this a thread takes longer

_under_way: list[threading.Thread] = []


def close(fd: int) -> None:
    """Closes a descriptor through which nothing was written; that of a large file without a name later."""
    found = os.fstat(fd)
    if found.st_nlink or found.st_size < _LARGE_BYTES:
        close_quietly(fd)
        return
    thread = threading.Thread(target=close_quietly, args=(fd,), name="marlin-ckpt freeing")
    try:
        thread.start()
    except RuntimeError:  # there is no room for one, or the interpreter is about to end
        close_quietly(fd)
        return
    _under_way.append(thread)


def wait() -> None:
    """Waits until all space has been given back, which the next file may need."""
    for thread in [*_under_way]:
        thread.join()
        with contextlib.suppress(ValueError):  # another thread has waited for it, too
            _under_way.remove(thread)
