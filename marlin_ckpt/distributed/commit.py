"""A sharded checkpoint comes into being: a temporary folder that all ranks fill, and one rename.

Rank 0 makes and locks the folder (`storage.local.staging`), each rank writes its shard into it and makes that
durable, and rank 0 adds `.metadata` and the manifest and gives the folder its name. Until then a reader finds
the old checkpoint, or none, and what is left of a failure is swept as temporary files are. On a file system
without locks the lease of the run keeps others away, as it does for files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from marlin_ckpt.distributed.failures import together, told_by_main
from marlin_ckpt.distributed.metadata import NAME as METADATA
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.shards.durable import Facts, write_durably
from marlin_ckpt.errors import StorageError, UnsavableStateError
from marlin_ckpt.formats.manifest import Manifest, most_bytes
from marlin_ckpt.formats.statistics import NAME as STATISTICS
from marlin_ckpt.naming import MANIFEST, SHARDED
from marlin_ckpt.storage.local import publishing, staging, temporary, trees
from marlin_ckpt.storage.local.files import absolute, close_quietly, closing, doing

PATIENCE_S = 60.0  # network file systems keep what a directory holds for about that long: nfs(5), acdirmax
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FIRST_POLL_S, _LONGEST_POLL_S = 0.01, 1.0
_SHARED = (
    "all ranks save into one directory that they share, on a network file system, not on each node's disk"
)


class Staging:
    """The folder of a save under its temporary name, at rank 0.

    Attributes:
        folder: its path.
        save_id: of the save.
    """

    def __init__(self, path: str, *, overwrite: bool) -> None:
        """Makes the folder, and the directory that it is in.

        Args:
            path: that the folder will have.
            overwrite: whether it replaces a folder that has the name.

        Raises:
            StorageError: a folder has the name and is not to be replaced, something has that is no folder,
                or a system call failed.
        """
        self._path = absolute(path)
        self._overwrite = overwrite
        self.save_id = secrets.token_hex(8)
        directory, self._name = os.path.split(self._path)
        publishing.make_directory(directory)
        with doing("cannot write", self._path), contextlib.ExitStack() as stack:
            self._fd = os.open(directory, _DIRECTORY)
            stack.callback(close_quietly, self._fd)
            staging.check_free(self._fd, self._name, self._path, overwrite=overwrite)
            self._lock, self._staged = staging.create(self._fd, self._name)
            stack.pop_all()
        self.folder = os.path.join(directory, self._staged)
        self._is_open = True

    def publish(
        self,
        metadata: bytes,
        shards: Iterable[Facts],
        manifest: Manifest,
        patience_s: float = PATIENCE_S,
        statistics: bytes = b"",
    ) -> int:
        """Adds what is missing to the shards, and gives the folder its name.

        Args:
            metadata: the bytes of `.metadata`.
            shards: the files that the ranks have written.
            manifest: of the checkpoint, with the id of the save, without its records.
            patience_s: how long to look for a shard that another rank has written.
            statistics: the record of the tensors' statistics, if they are saved.

        Returns:
            how many bytes the checkpoint has.

        Raises:
            StorageError: a shard is not there as it was written, or a system call failed.
            UnsavableStateError: the manifest is too long.
        """
        with doing("cannot write", self._path):
            files, deadline = list(shards), time.monotonic() + patience_s
            for one in files:
                self._check(one, deadline)
            own, name = os.path.split(os.path.join(self.folder, MANIFEST))
            os.mkdir(own)
            files += [
                self._written(self.folder, file, content)
                for file, content in ((METADATA, metadata), (STATISTICS, statistics))
                if content
            ]
            records = [{"name": one.name, "size": one.size_bytes, "crc32": one.crc32} for one in files]
            data = replace(manifest, records=records, layout=SHARDED).to_json()
            if len(data) > (most := most_bytes(one.name for one in files)):
                raise UnsavableStateError(
                    f"the metrics take {len(data):,} bytes, more than {most:,}", self._path
                )
            self._written(own, name, data)
            publishing.sync_directory(own)
            publishing.sync_directory(self.folder)
            staging.publish(self._fd, self._staged, self._name, self._path, overwrite=self._overwrite)
        self._is_open = False
        staging.release(self._lock)
        close_quietly(self._fd)
        return sum(one.size_bytes for one in files) + len(data)

    def discard(self) -> None:
        """Removes the folder if it was not published; what the system keeps from that the next sweep does."""
        if not self._is_open:
            return
        self._is_open = False
        staging.discard(self._fd, self._staged, self._lock)
        close_quietly(self._fd)

    def _written(self, folder: str, name: str, data: bytes) -> Facts:
        return write_durably(folder, name, len(data), lambda to: to.put(data), published=self._path)

    def _check(self, shard: Facts, deadline: float) -> None:
        """Looks at a shard as a reader on this node would."""
        path = os.path.join(self.folder, shard.name)
        if not _is_seen(path, lambda found: found.st_size == shard.size_bytes, deadline):
            what = f"rank 0 does not see {shard.name} as it was written, with {shard.size_bytes:,} bytes"
            raise StorageError(what, self._path, _SHARED, errno=errno.EIO)


class Begun(NamedTuple):
    """A save that has begun.

    Attributes:
        folder: its path, under its temporary name.
        save_id: of the save.
        more: what else rank 0 has told.
    """

    folder: str
    save_id: str
    more: Any = None


class Staged:
    """The folder of a save under its temporary name, at all ranks.

    Attributes:
        main: what rank 0 has of it; None at the others.
    """

    def __init__(self, path: str, ranks: Ranks) -> None:
        """Takes the path that the folder will have; makes nothing yet."""
        self.main: Staging | None = None
        self._path = absolute(path)
        self._ranks = ranks

    def begin(self, *, overwrite: bool, more: Callable[[], Any] = lambda: None) -> Begun:
        """Makes the folder, at rank 0.

        Args:
            overwrite: whether it replaces a folder that has the name.
            more: what else rank 0 tells the others.

        Raises:
            StorageError: as `Staging`; at all ranks.
        """
        name, *told = told_by_main(self._ranks, lambda: self._made(overwrite, more))
        return Begun(os.path.join(os.path.dirname(self._path), name), *told)

    def _made(self, overwrite: bool, more: Callable[[], Any]) -> Begun:
        self.main = Staging(self._path, overwrite=overwrite)
        return Begun(os.path.basename(self.main.folder), self.main.save_id, more())

    def discard(self) -> None:
        """Removes the folder if it was made here and not published."""
        if self.main is not None:
            self.main.discard()


def find(folder: str, path: str, patience_s: float = PATIENCE_S) -> None:
    """Waits until this rank sees the folder that rank 0 has made.

    Args:
        folder: its path.
        path: of the checkpoint, for messages.
        patience_s: for how long.

    Raises:
        StorageError: it does not see it; it may look at another disk.
    """
    with doing("cannot write", path):
        if not _is_seen(folder, lambda _: True, time.monotonic() + patience_s):
            what = "this rank does not see the folder that rank 0 has made beside it"
            raise StorageError(what, path, _SHARED, errno=errno.ENOENT)


def abandon(folder: str) -> None:
    """Removes the folder of a save that has failed, at a rank that did not make it.

    What other ranks still write fails, or goes with the next sweep.

    Args:
        folder: its path, under its temporary name.
    """
    directory, name = os.path.split(folder)
    with contextlib.suppress(OSError), closing(os.open(directory, _DIRECTORY)) as fd:
        # By another name no other rank can begin a file in it, which would be left.
        going = temporary.temporary_name("abandoned")
        os.rename(name, going, src_dir_fd=fd, dst_dir_fd=fd)
        trees.remove_folder(fd, going)


def _is_seen(path: str, is_right: Callable[[os.stat_result], bool], deadline: float) -> bool:
    """Looks for what another rank has made, which a network file system may show late."""
    pause = _FIRST_POLL_S
    while True:
        with contextlib.suppress(FileNotFoundError):
            # Such a system may remember that there was no such name until its directory is opened again.
            with closing(os.open(os.path.dirname(path), _DIRECTORY)) as fd:
                status = os.stat(os.path.basename(path), dir_fd=fd, follow_symlinks=False)
            if is_right(status):
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_POLL_S)


def check_shared(directory: str, ranks: Ranks, patience_s: float = PATIENCE_S) -> None:
    """Checks that all ranks see one directory, before a run begins; all of them call it.

    Args:
        directory: that checkpoints are saved in; made if it is missing.
        ranks: of the run.
        patience_s: how long a rank looks for what rank 0 has made there.

    Raises:
        StorageError: a rank does not see it, or it cannot be written to.
    """
    if ranks.world_size == 1:
        return
    staged = Staged(os.path.join(absolute(directory), f"shared-{secrets.token_hex(4)}"), ranks)
    patience_s = min(patience_s, ranks.timeout_s / 2)
    try:
        begun = staged.begin(overwrite=True)
        together(ranks, lambda: find(begun.folder, directory, patience_s))
    finally:
        staged.discard()
