"""Memory that files are written from, kept for the next: a new buffer costs a page fault for each 4 KiB."""

import contextlib
import mmap

# A buffer that stays in the processor's caches is copied to, summed and read by the disk a fifth faster than
# one that does not; larger and more ones were no faster on ext4.
PIECE_BYTES = 1 << 20
MOST_KEPT = 8

# A list, since its `append` and `pop` need no lock, which a process that is forked could find locked.
_kept: list[memoryview] = []


def take(size: int) -> memoryview:
    """A buffer of so many bytes that is no other file's, beginning at a page's border."""
    with contextlib.suppress(IndexError):
        if len(kept := _kept.pop()) == size:
            return kept
    # Private, so that a process that is forked has its own.
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def give_back(buffers: list[memoryview]) -> None:
    """Takes buffers that nothing reads or writes any more."""
    _kept.extend(buffers[: max(0, MOST_KEPT - len(_kept))])
