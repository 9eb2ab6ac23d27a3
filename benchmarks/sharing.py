"""Times saves that share what has not changed, on XFS, and where nothing can be shared."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import torch

from benchmarks.files import buffer, durable, empty, in_blocks, write_raw
from benchmarks.interleaved import Call, Timing, medians
from benchmarks.report import Row, Setting
from benchmarks.saving import has_room
from benchmarks.states import QUICK, size_text, training
from marlin_ckpt import CheckpointDirectory
from marlin_ckpt.formats.digests import LEAST_BYTES, first_of
from marlin_ckpt.storage.local.cloning import block_bytes, clone_range
from marlin_ckpt.storage.local.mounts import wait_until_given_back

_CHANGED = 0.05
_KEPT = 2
_MOST_ROUNDS = 6  # after two saves, and the one that warms up; each tenth shares nothing
_FILES = 7  # that are there at once
_RAW_BYTES = 4 << 20
_WITHOUT = "ours, without the option"
_LIMIT = "clone calls and a raw O_DIRECT write of the changed bytes"


def sharing(setting: Setting) -> list[Row]:
    """A state of which a twentieth has changed, or all, beside saves without the option and the disk."""
    if find_spec("xxhash") is None:
        setting.leave_out("sharing is left out, since xxhash is not installed")
        return []
    setting = replace(setting, rounds=min(setting.rounds, _MOST_ROUNDS))
    state = _State(setting)
    if block_bytes(str(setting.directory)) is not None:
        return state.on_sharing(setting)
    if not has_room(setting, (_KEPT + 1) * 2 * state.size_bytes):
        return []
    rows = [state.all_changed(setting, "where nothing can be shared")]
    empty(setting.directory)
    with _xfs(setting, _FILES * state.size_bytes) as directory:
        return (
            rows if directory is None else [*state.on_sharing(replace(setting, directory=directory)), *rows]
        )


@contextlib.contextmanager
def _xfs(setting: Setting, size: int) -> Iterator[Path | None]:
    """A new XFS of that size in a file, all of which was written once; None where none can be made."""
    if setting.sizes is QUICK or os.geteuid() or not which("mkfs.xfs"):
        setting.leave_out(
            "sharing is left out: it needs a --directory on XFS, or root and mkfs.xfs to make one"
        )
        yield None
        return
    if not has_room(setting, size):
        yield None
        return
    with tempfile.TemporaryDirectory(dir=setting.directory) as folder:
        image, top = Path(folder, "image"), Path(folder, "mounted")
        top.mkdir()
        # Where it is sparse, the first write to each place is that of the file system below, and slow.
        write_raw(image, buffer(_RAW_BYTES), in_blocks(size))
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
        with _looped(image) as device:
            subprocess.run(["mount", device, top], check=True)
            try:
                yield top
            finally:
                wait_until_given_back()
                subprocess.run(["umount", top], check=True)


@contextlib.contextmanager
def _looped(image: Path) -> Iterator[str]:
    """A block device of that file, which writes past the page cache as a disk does: else the fsync would."""
    command = ["losetup", "--find", "--show", "--direct-io=on", str(image)]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


class _State:
    """A training whose tensors are changed, all of them or a twentieth."""

    def __init__(self, setting: Setting) -> None:
        live = training(setting.sizes.medium)
        self._state, self._all = live.checkpoint().payload(), live.tensors()
        self.size_bytes = sum(one.nbytes for one in self._all)
        self._some: list[torch.Tensor] = []
        for one in sorted(self._all, key=lambda one: one.nbytes):
            if one.nbytes >= LEAST_BYTES and self._some_bytes < _CHANGED * self.size_bytes:
                self._some.append(one)
        changed = {id(one) for one in self._some}
        self._rest = [one for one in self._all if one.nbytes >= LEAST_BYTES and id(one) not in changed]
        self._save = f"save {size_text(self.size_bytes)}"

    @property
    def _some_bytes(self) -> int:
        return sum(one.nbytes for one in self._some)

    def on_sharing(self, setting: Setting) -> list[Row]:
        """All rows of a file system that can share."""
        if not has_room(setting, _FILES * self.size_bytes // 2):
            return []
        rows = [*self._some_changed(setting)]
        empty(setting.directory)
        rows.append(self._space(setting))
        empty(setting.directory)
        return [*rows, self.all_changed(setting, "on XFS")]

    def _some_changed(self, setting: Setting) -> Iterator[Row]:
        raw = _Raw(setting.directory, self._rest, self._some_bytes)
        calls = self._saves(setting.directory, self._some) | {
            _LIMIT: raw.write,
            f"{_LIMIT}, and a digest of the others": raw.digest_and_write,
        }
        timings = medians(calls, setting.rounds, lambda: self._change(self._some))
        what = f"{self._save}, of which 5% changed, with `share_unchanged` on XFS"
        for name, bound in {_WITHOUT: 0.2, **dict.fromkeys(calls.keys() - {"ours", _WITHOUT})}.items():
            times = timings["ours"].wall_s, timings[name].wall_s
            yield Row("sharing", what, name, *times, setting.rounds, bound, limit=name != _WITHOUT)

    def _space(self, setting: Setting) -> Row:
        taken = {}
        for name, shares in (("ours", True), (_WITHOUT, False)):
            with CheckpointDirectory(setting.directory / name, share_unchanged=shares) as there:
                for index in range(3):
                    self._change(self._some)
                    before = _free_bytes(setting.directory)
                    there.save(self._state, index)
                    taken[name] = (before - _free_bytes(setting.directory)) / (1 << 20)
            empty(setting.directory)
        what = f"space of {size_text(self.size_bytes)}, of which 5% changed, with `share_unchanged` on XFS"
        return Row("sharing", what, _WITHOUT, taken["ours"], taken[_WITHOUT], 1, 0.1, "MiB")

    def all_changed(self, setting: Setting, where: str) -> Row:
        """The row of a state all of which has changed."""
        calls = self._saves(setting.directory, self._all)
        timings: dict[str, Timing] = medians(calls, setting.rounds, lambda: self._change(self._all))
        what = f"{self._save}, all of which changed, with `share_unchanged` {where}"
        times = timings["ours"].wall_s, timings[_WITHOUT].wall_s
        return Row("sharing", what, _WITHOUT, *times, setting.rounds, 1.05)

    def _saves(self, directory: Path, changed: list[torch.Tensor]) -> dict[str, Call]:
        """Our save with the option, and without; two were made with each already."""
        calls: dict[str, Call] = {}
        for name, shares in (("ours", True), (_WITHOUT, False)):
            there = CheckpointDirectory(directory / name, keep=_KEPT, share_unchanged=shares)
            for _ in range(_KEPT):
                self._change(changed)
                self._saved(there)
            calls[name] = partial(self._saved, there)
        return calls

    def _saved(self, there: CheckpointDirectory) -> None:
        there.save(self._state, _after(there))

    @staticmethod
    def _change(tensors: list[torch.Tensor]) -> None:
        for one in tensors:
            one.add_(1)
        wait_until_given_back()
        os.sync()


def _after(there: CheckpointDirectory) -> int:
    newest = there.latest(intact=False)
    return 0 if newest is None or newest.index is None else newest.index + 1


def _free_bytes(directory: Path) -> int:
    os.sync()
    found = os.statvfs(directory)
    return found.f_bfree * found.f_frsize


class _Raw:
    """What such a save needs at least."""

    def __init__(self, directory: Path, rest: list[torch.Tensor], changed_bytes: int) -> None:
        self._path, source = directory / "raw", directory / "raw source"
        self._rest = rest
        self._changed, self._changed_bytes = buffer(_RAW_BYTES), in_blocks(changed_bytes)
        self._rest_bytes = sum(in_blocks(one.nbytes) for one in rest)
        write_raw(source, buffer(_RAW_BYTES), self._rest_bytes)
        self._source = open(source, "rb")  # noqa: SIM115 - as long as this

    def digest_and_write(self) -> None:
        """Looks at all that is the same, with two threads, and then does the other."""
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(_digest, self._rest):
                continue
        self.write()

    def write(self) -> None:
        """Shares each of the unchanged tensors, and writes the others."""
        self._path.unlink(missing_ok=True)
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o644)
        try:
            os.ftruncate(fd, self._rest_bytes + self._changed_bytes)
            at = 0
            for one in self._rest:
                size = in_blocks(one.nbytes)
                clone_range(fd, at, self._source.fileno(), at, size)
                at += size

            def write(start: int) -> None:
                size = min(_RAW_BYTES, self._changed_bytes - start)
                os.pwrite(fd, self._changed[:size], self._rest_bytes + start)

            with ThreadPoolExecutor(2) as pool:
                for _ in pool.map(write, range(0, self._changed_bytes, _RAW_BYTES)):
                    continue
            os.fsync(fd)
        finally:
            os.close(fd)
        durable(self._path, files=False)


def _digest(tensor: torch.Tensor) -> None:
    data = tensor.detach().reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(data), LEAST_BYTES):
        first_of(data[start:])
