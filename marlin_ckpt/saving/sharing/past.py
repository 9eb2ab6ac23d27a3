"""What this process has written of a run, or read to go on from it, and what can still be shared with."""

import contextlib
import itertools
import logging
import os
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

from marlin_ckpt.entries import Identity
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.digests import new_hash
from marlin_ckpt.formats.shared import Held
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.saving.sharing.looking import Looks, held_in, identity_of, is_unchanged, opened
from marlin_ckpt.storage.local.cloning import block_bytes
from marlin_ckpt.storage.local.files import closing
from marlin_ckpt.storage.paths import absolute
from marlin_ckpt.storage.target import Earlier
from marlin_ckpt.urls import is_url

_SOURCES = 2  # of the two newest the one is shared with whose bytes the other has not
_MOST_OWN = 16  # files that are remembered, most of which have gone by then


class Staying(NamedTuple):
    """The checkpoints that stay once a new one is there.

    Attributes:
        before: the paths of those of a lesser index, the greatest index first.
        after: of those of a greater one, the least index first.
    """

    before: Sequence[str] = ()
    after: Sequence[str] = ()


class Own(NamedTuple):
    """A checkpoint that this process wrote, or its part of one; or one that it read in full.

    Attributes:
        path: the name of the checkpoint.
        member: the name of the file in it that this process wrote; "": it is a file itself.
        identity: of the file, from when it became durable, or from before it was read.
        held: the large records that it holds, as they were in memory, or as the file says.
        read_of: the run that wrote it, if this process has only read it: its digests are not our own.
    """

    path: str
    member: str
    identity: Identity
    held: Mapping[str, Held]
    read_of: str | None = None

    @property
    def file(self) -> str:
        """The name of the file."""
        return member_of(self.path, self.member)


class Past:
    """What this process has written of a run, and what it goes on from."""

    def __init__(self, logger: logging.Logger) -> None:
        """Takes what is told where nothing can be shared."""
        self.looks = Looks()
        self._own: deque[Own] = deque(maxlen=_MOST_OWN)
        self._earlier: dict[str, Earlier] = {}
        self._reading: Own | None = None
        self._logger = logger
        self._told: set[str] = set()

    def alignment(self, directory: str) -> int:
        """The multiple at which data starts in files of a directory, 64 where these can share nothing."""
        block = block_bytes(directory)
        if block is None and directory not in self._told:
            self._told.add(directory)
            what = "share_unchanged has no effect in %s: its file system lets no files share bytes."
            self._logger.info(what, directory)
        return block or ALIGNMENT

    def earlier(self, directory: str) -> Earlier:
        """The object that was written last to a directory in a bucket."""
        return self._earlier.setdefault(directory, Earlier(new_hash))

    def wrote(self, path: str, held: Mapping[str, Held], member: str = "") -> None:
        """Remembers a file that is durable.

        Args:
            path: the name of the checkpoint.
            held: the large records in the file, as they were in memory.
            member: the name of the file in the checkpoint, unless it is this itself.
        """
        file = member_of(path, member)
        with contextlib.suppress(OSError), closing(opened(file)) as fd:
            one = Own(path, member, identity_of(fd), held)
            self._own.append(one)
            self.looks.know(file, one.identity, {name: known.digested for name, known in held.items()})

    def reads(self, path: PathText) -> None:
        """Remembers which file it is that is going to be read in full."""
        self._reading = None
        if not is_url(path):
            with contextlib.suppress(OSError), closing(opened(absolute(path))) as fd:
                self._reading = Own(absolute(path), "", identity_of(fd), {})

    def has_read(self, path: PathText) -> None:
        """Takes the file that was read last for one to share with, if all its checksums hold.

        It is none if it has changed since `reads` was told of it.
        """
        one, self._reading = self._reading, None
        if one is None or is_url(path) or one.path != absolute(path):
            return
        run_id, held = held_in(one.path, one.identity)
        self._own.append(one._replace(held=held, read_of=run_id))

    def still_there(self, directory: str, member: str | None = None) -> Generator[tuple[int, Own]]:
        """The checkpoints in a directory that were written or read and are unchanged, the newest first.

        Args:
            directory: in which they are.
            member: the name of the file in them, or "" of files; None: all.

        Yields:
            each with a descriptor of its file that is open until the next one's turn comes.
        """
        seen = set()
        for one in [*self._own][::-1]:
            if one.file in seen or member not in (None, one.member) or os.path.dirname(one.path) != directory:
                continue
            seen.add(one.file)
            with contextlib.suppress(OSError), closing(opened(one.file)) as fd:
                if is_unchanged(fd, one.identity):
                    yield fd, one

    @contextlib.contextmanager
    def sources(self, directory: str, run_id: str, member: str = "") -> Iterator["list[Source]"]:
        """Opens the files of the newest of these that are of a run, for as long as the context lasts."""
        with contextlib.ExitStack() as stack:
            found = []
            there = self.still_there(directory, member)
            of_run = ((fd, one) for fd, one in there if one.read_of in {None, run_id})
            for fd, one in itertools.islice(of_run, _SOURCES):
                with contextlib.suppress(OSError):  # no descriptor is free, say
                    found.append(Source(stack.enter_context(closing(os.dup(fd))), one))
            there.close()
            yield found


class Source(NamedTuple):
    """An open file, whose bytes a new one may share.

    Attributes:
        fd: its descriptor.
        own: what it is.
    """

    fd: int
    own: Own


def member_of(path: str, member: str) -> str:
    """The name of a file in a checkpoint, which "" says is the file itself."""
    return os.path.join(path, member) if member else path
