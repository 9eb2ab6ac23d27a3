"""File systems on a disk whose writes are recorded, and what a power loss can leave of that disk."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tests.support import logged_disk

DISK_BYTES = 340 << 20


class System(NamedTuple):
    """A file system that shares blocks."""

    make: list[str]
    mount: str  # options; what discards blocks is not recorded
    sector_bytes: int  # what it takes for written as a whole or not at all: btrfs its superblock


SYSTEMS = {
    "xfs": System(["mkfs.xfs", "-q", "-K", "-m", "reflink=1"], "nodiscard", 512),
    "btrfs": System(["mkfs.btrfs", "-q", "-K", "-M"], "nodiscard", 4096),
}


class Write(NamedTuple):
    """What came to the disk; a flush has no place."""

    offset: int
    size: int
    at: int  # in the log, where the bytes are

    @property
    def is_flush(self) -> bool:
        return (self.offset, self.size) == logged_disk.FLUSH


class Recording(NamedTuple):
    """A disk as it was, and what was then written to it."""

    system: System
    empty: Path
    log: Path

    def moment(self) -> int:
        """Says, while it is recorded, how much has come until now."""
        return self.log.stat().st_size

    def writes(self) -> list[Write]:
        found, at = [], 0
        with open(self.log, "rb") as log:
            while header := log.read(logged_disk.ENTRY.size):
                offset, size = logged_disk.ENTRY.unpack(header)
                found.append(Write(offset, size, at + len(header)))
                at = log.seek(size, os.SEEK_CUR)
        return found

    def moments(self) -> list[int]:
        """Before the first write, and after each."""
        return [0, *(write.at + write.size for write in self.writes())]


@contextlib.contextmanager
def memory() -> Iterator[Path]:
    """A folder for images, whose loop devices need not wait for a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        yield Path(folder)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def mounted(image: Path, system: System, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    device = _run("losetup", "--find", "--show", image)
    try:
        if system.make[0] == "mkfs.btrfs":  # which knows the device by what lay on it before
            subprocess.run(["btrfs", "device", "scan", "--forget", device], check=False, capture_output=True)
        _run("mount", "-o", system.mount, device, place)
        try:
            yield place
        finally:
            _run("umount", place)
    finally:
        _run("losetup", "--detach", device)


def _made(folder: Path, system: System) -> Path:
    image = folder / "image"
    with open(image, "wb") as file:
        file.truncate(DISK_BYTES)
    _run(*system.make, image)
    return image


@contextlib.contextmanager
def new_disk(folder: Path, name: str) -> Iterator[Path]:
    """A new file system of this name, mounted until the end of the block."""
    with mounted(_made(folder, SYSTEMS[name]), SYSTEMS[name], folder / "disk") as disk:
        yield disk


@contextlib.contextmanager
def recording(folder: Path, name: str) -> Iterator[tuple[Recording, Path]]:
    """A new file system of this name, mounted, on a disk that is recorded until the end of the block."""
    system = SYSTEMS[name]
    image = _made(folder, system)
    served, empty, log = (folder / one for one in ("served", "empty", "log"))
    served.touch()
    _run("cp", "--sparse=always", image, empty)
    command = [sys.executable, logged_disk.__file__, image, log, served]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            with mounted(served, system, folder / "recorded") as place:
                yield Recording(system, empty, log), place
        finally:
            _run("umount", "--lazy", served)
    assert server.returncode == 0
    image.unlink()


class Replay:
    """Makes images of what a power loss can leave, of ever later moments."""

    def __init__(self, recording: Recording, folder: Path) -> None:
        self._system = recording.system
        self._writes = recording.writes()
        self._log = open(recording.log, "rb")  # noqa: SIM115 - as long as this object
        self._flushed = folder / "flushed"  # as it was at the last flush before the moment
        self._image = folder / "left"
        self._applied = 0
        shutil.copyfile(recording.empty, self._flushed)

    def left(self, moment: int, rng: random.Random) -> Path:
        """An image with all that was flushed by then, and of what was written after that whatever chance has.

        Args:
            moment: a size of the log; not before that of the call before this.
            rng: chooses of each write that no flush followed whether it came to the disk as a whole, in part
                or not.
        """
        done = sum(write.at + write.size <= moment for write in self._writes)
        flushed = max((n + 1 for n in range(done) if self._writes[n].is_flush), default=0)
        with open(self._flushed, "r+b") as disk:
            for write in self._writes[self._applied : flushed]:
                self._apply(disk, write)
        self._applied = max(flushed, self._applied)
        _run("cp", "--sparse=always", self._flushed, self._image)
        likely = rng.choice([0, 1, rng.random()])
        with open(self._image, "r+b") as disk:
            for write in self._writes[flushed:done]:
                if rng.random() < likely:
                    self._apply(disk, write)
                elif likely > 0 and rng.random() < 0.5:
                    self._apply(disk, write, rng)
        return self._image

    def _apply(self, disk: BinaryIO, write: Write, rng: random.Random | None = None) -> None:
        """Writes the bytes, or whichever of their sectors chance has."""
        if write.is_flush:
            return
        self._log.seek(write.at)
        step = self._system.sector_bytes if rng else write.size
        for start in range(0, write.size, step):
            data = self._log.read(min(step, write.size - start))
            if rng is None or rng.random() < 0.5:
                disk.seek(write.offset + start)
                disk.write(data)

    def close(self) -> None:
        self._log.close()
