"""A file for a loop device below which each write and each flush is recorded, in their order.

A process of its own, which must not wait for what waits for it: `python logged_disk.py IMAGE LOG PLACE`
serves the file IMAGE at PLACE, another file, by FUSE, and records in LOG what comes: for each write its
offset, its size and its bytes, for each flush FLUSH. It says a line when it is ready, and ends when PLACE is
unmounted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Callable

ENTRY = struct.Struct("<QQ")  # offset and size, before the bytes
FLUSH = (1 << 64) - 1, 0

# linux/fuse.h
_GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _RELEASE, _FSYNC, _CLOSED, _INIT = 3, 4, 14, 15, 16, 18, 20, 25, 26
_UNANSWERED = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET
_REQUEST = struct.Struct("=IIQQIIIHH")
_ANSWER = struct.Struct("=IiQ")
_WRITTEN = struct.Struct("=QQIIQII")
_ATTRIBUTES = struct.Struct("=QII 6Q 10I")
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_DIRECT_IO = 1
_MOST_BYTES = 1 << 20


class Disk:
    """What answers the requests of the kernel."""

    def __init__(self, image: int, log: int) -> None:
        self._image, self._log = image, log
        self._do: dict[int, Callable[[memoryview], bytes]] = {
            _INIT: self._begin,
            _GETATTR: self._attributes,
            _SETATTR: self._attributes,
            _OPEN: lambda _: struct.pack("=QII", 0, _DIRECT_IO, 0),
            _READ: self._read,
            _WRITE: self._write,
            _FSYNC: self._flush,
            _RELEASE: lambda _: b"",
            _CLOSED: lambda _: b"",
        }

    def serve(self, fuse: int) -> None:
        """Answers until the file is unmounted."""
        buffer = memoryview(bytearray(_MOST_BYTES + (64 << 10)))
        while True:
            try:
                size = os.readv(fuse, [buffer])
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.ENOENT, errno.EINTR):  # the request was withdrawn
                    continue
                raise
            _, code, number, *_ = _REQUEST.unpack_from(buffer)
            if code in _UNANSWERED:
                continue
            known = self._do.get(code)
            answer = known(buffer[_REQUEST.size : size]) if known else b""
            status = 0 if known else -errno.ENOSYS
            os.write(fuse, _ANSWER.pack(_ANSWER.size + len(answer), status, number) + answer)

    def _begin(self, _: memoryview) -> bytes:
        flags = _BIG_WRITES | _MAX_PAGES
        return struct.pack("=IIIIHHIIHH28x", 7, 31, 0, flags, 16, 12, _MOST_BYTES, 1, _MOST_BYTES // 4096, 0)

    def _attributes(self, _: memoryview) -> bytes:
        size = os.fstat(self._image).st_size
        times = [0] * 6
        kind = [stat.S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0]
        return _ATTRIBUTES.pack(3600, 0, 0, 1, size, size // 512, *times, *kind)

    def _read(self, asked: memoryview) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", asked)
        return os.pread(self._image, size, offset)

    def _write(self, asked: memoryview) -> bytes:
        _, offset, size, *_ = _WRITTEN.unpack_from(asked)
        data = asked[_WRITTEN.size : _WRITTEN.size + size]
        os.pwrite(self._image, data, offset)
        os.writev(self._log, [ENTRY.pack(offset, size), data])
        return struct.pack("=II", size, 0)

    def _flush(self, _: memoryview) -> bytes:
        os.write(self._log, ENTRY.pack(*FLUSH))
        return b""


def mount(fuse: int, place: str) -> None:
    options = f"fd={fuse},rootmode={stat.S_IFREG:o},user_id=0,group_id=0"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"logged-disk", os.fsencode(place), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), place)


if __name__ == "__main__":
    image_fd = os.open(sys.argv[1], os.O_RDWR)
    log_fd = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    fuse_fd = os.open("/dev/fuse", os.O_RDWR)
    mount(fuse_fd, sys.argv[3])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    Disk(image_fd, log_fd).serve(fuse_fd)
