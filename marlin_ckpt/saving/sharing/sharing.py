"""Writes a file that shares what has not changed with those that this process wrote before it."""

import contextlib
import functools
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from isal import isal_zlib

from marlin_ckpt.entries import Identity
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.digests import PIECE_BYTES, Hashing, Origin, first_of
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch.shared import Held, Same, Shared
from marlin_ckpt.formats.torch.writer import Written
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.saving.sharing import decide
from marlin_ckpt.saving.sharing.decide import Copy
from marlin_ckpt.saving.sharing.looking import Looks, identity_of, opened
from marlin_ckpt.storage.local.cloning import block_bytes
from marlin_ckpt.storage.local.files import closing
from marlin_ckpt.storage.paths import absolute
from marlin_ckpt.storage.target import Span
from marlin_ckpt.storage.threads import in_order
from marlin_ckpt.urls import is_url

_SOURCES = 2  # of the two newest the one is shared with whose bytes the other has not
_MOST_OWN = 16  # files that are remembered, most of which have gone by then
_MOST_LOOKED_AT = 8  # files on either side, for one that holds the same


class Staying(NamedTuple):
    """The checkpoints that stay once a new one is there.

    Attributes:
        before: the paths of those of a lesser index, the greatest index first.
        after: of those of a greater one, the least index first.
    """

    before: Sequence[str] = ()
    after: Sequence[str] = ()


class Own(NamedTuple):
    """A file that this process wrote.

    Attributes:
        path: its name.
        identity: of it, from when it became durable.
        held: the large records that it holds, as they were in memory.
    """

    path: str
    identity: Identity
    held: Mapping[str, Held]


class Past:
    """What this process has written of a run."""

    def __init__(self, logger: logging.Logger) -> None:
        """Takes what is told where nothing can be shared."""
        self.looks = Looks()
        self._own: deque[Own] = deque(maxlen=_MOST_OWN)
        self._logger = logger
        self._told: set[str] = set()

    def sharing(
        self, path: PathText, manifest: Manifest, staying: "Callable[[int], Staying] | None" = None
    ) -> "Sharing | None":
        """How the next save shares; None where its store lets no files share bytes.

        Args:
            path: of the new file.
            manifest: of it.
            staying: see `Sharing`; None: all that this process has written and that is still there.
        """
        if is_url(path):
            return None
        own = absolute(path)

        def all_others(_: int) -> Staying:
            paths = [one.path for _, one in self.still_there(os.path.dirname(own))]
            return Staying([one for one in paths if one != own])

        origin = Origin(manifest.run_id, manifest.save_number)
        return Sharing(self, own, origin, staying or all_others)

    def alignment(self, directory: str) -> int:
        """The multiple at which data starts in files of a directory, 64 where these can share nothing."""
        block = block_bytes(directory)
        if block is None and directory not in self._told:
            self._told.add(directory)
            what = "share_unchanged has no effect in %s: its file system lets no files share bytes."
            self._logger.info(what, directory)
        return block or ALIGNMENT

    def wrote(self, path: str, held: Mapping[str, Held]) -> None:
        """Remembers a file that is durable."""
        with contextlib.suppress(OSError), closing(opened(path)) as fd:
            one = Own(path, identity_of(fd), held)
            self._own.append(one)
            self.looks.know(path, one.identity, {name: known.digested for name, known in held.items()})

    def still_there(self, directory: str) -> Iterator[tuple[int, Own]]:
        """The files that were written to a directory and are unchanged, the newest first.

        Yields:
            each with a descriptor that is open until the next one's turn comes.
        """
        seen = set()
        for one in [*self._own][::-1]:
            if one.path in seen or os.path.dirname(one.path) != directory:
                continue
            seen.add(one.path)
            with contextlib.suppress(OSError), closing(opened(one.path)) as fd:
                if identity_of(fd) == one.identity:
                    yield fd, one

    @contextlib.contextmanager
    def sources(self, directory: str) -> Iterator["list[Source]"]:
        """Opens the newest of these files, for as long as the context lasts."""
        with contextlib.ExitStack() as stack:
            found = []
            for fd, one in itertools.islice(self.still_there(directory), _SOURCES):
                found.append(Source(stack.enter_context(closing(os.dup(fd))), one))
            yield found


class Source(NamedTuple):
    """An open file, whose bytes a new one may share.

    Attributes:
        fd: its descriptor.
        own: what it is.
    """

    fd: int
    own: Own


class Data(NamedTuple):
    """The data of the records of a new file.

    Attributes:
        sizes: their lengths in bytes, by their names.
        of: the first bytes of a record, or all where None are asked for.
        is_final: whether nothing changes them any more.
    """

    sizes: Mapping[str, int]
    of: Callable[[str, int | None], memoryview]
    is_final: bool


class _ChangedError(MarlinError):
    """A file has changed while its bytes were shared."""


class Sharing:
    """How one save shares."""

    def __init__(self, past: Past, path: str, origin: Origin, staying: Callable[[int], Staying]) -> None:
        """Takes what is known before it begins.

        Args:
            past: what this process has written before.
            path: of the new file, absolute.
            origin: of the bytes that it writes.
            staying: which checkpoints stay once the new one of this size, in bytes, is there.
        """
        self._past, self._path, self._origin, self._staying = past, path, origin, staying

    @functools.cached_property
    def alignment(self) -> int:
        """The multiple at which the data of the new file starts."""
        return self._past.alignment(os.path.dirname(self._path))

    def written(self, data: Data, write: Callable[[Shared, Callable[[], None]], Written]) -> Written:
        """Writes the file.

        Args:
            data: of its records.
            write: writes it with what is shared, and calls the second argument before the file has its name.

        Returns:
            what `write` returns, with the time that it took to compare.

        Raises:
            Whatever `write` raises; then the file is not there.
        """
        nothing = Shared(self.alignment, self._origin, {}, {})
        if self.alignment == ALIGNMENT:
            return write(nothing, _nothing)
        began = time.perf_counter()
        with self._past.sources(os.path.dirname(self._path)) as sources:
            shared = nothing._replace(records=self._same(sources, data))
            compared_s = time.perf_counter() - began
            try:
                done = write(shared, lambda: _check(sources))
            except _ChangedError:
                done = write(nothing, _nothing)
        self._past.wrote(self._path, shared.held)
        return replace(done, write_s=done.write_s + compared_s)

    def _same(self, sources: Sequence[Source], data: Data) -> dict[str, Same]:
        """What of the data is in one of the sources, and may be shared with it."""
        if not sources or decide.is_full(self._origin.save_number):
            return {}
        staying = self._staying(sum(data.sizes.values()))
        held = [{name: known.digested for name, known in one.own.held.items()} for one in sources]
        oldest = decide.oldest_shared(self._origin.save_number)
        before, after = self._held(staying.before), self._held(staying.after)
        may = decide.copies(list(zip(sources, held, strict=True)), before, after, oldest)
        wanted = []
        for name, copies in may.items():
            fitting = [one for one in copies if one.place.own.held[name].size == data.sizes.get(name)]
            if fitting:
                wanted.append((name, fitting))
        found = in_order(lambda one: (one[0], _found(data, self.alignment, *one)), wanted)
        return {name: same for name, same in found if same is not None}

    def _held(self, paths: Iterable[str]) -> Iterator[decide.Records]:
        return (self._past.looks.at(path) for path in itertools.islice(paths, _MOST_LOOKED_AT))


def _nothing() -> None:
    """There is nothing to be checked."""


def _check(sources: Iterable[Source]) -> None:
    """Raises where a file is not what it was: what was shared may be something else."""
    for one in sources:
        if identity_of(one.fd) != one.own.identity:
            raise _ChangedError("has changed while its bytes were shared", one.own.path)


def _found(data: Data, alignment: int, name: str, copies: Iterable[Copy[Source]]) -> Same | None:
    """The copy of a record among some; None where there is none.

    What has changed is mostly known by its first bytes.
    """
    first = first_of(data.of(name, PIECE_BYTES))
    left = [one for one in copies if one.held.digest.first == first]
    if not left:
        return None
    view, hashing = data.of(name, None), Hashing()
    size = len(view) if data.is_final else len(view) // alignment * alignment
    rest = bytes(view[size:])  # is written from memory, where it may be something else by then
    hashing.add(view[:size])
    hashing.add(memoryview(rest))
    digest = hashing.digest()
    for one in left:
        if one.held.digest == digest:
            known = one.place.own.held[name]
            return Same(Span(one.place.fd, known.start, size), _crc32_before(known.crc32, rest), one.held)
    return None


def _crc32_before(crc32: int, rest: bytes) -> int:
    """The CRC32 of bytes, by that of all of them with the rest behind.

    A CRC32 is a remainder that each byte behind it multiplies by x^8. The polynomial is primitive, so that
    2^32 - 1 such bytes change nothing, and that many but for the rest undo it.
    """
    if not rest:
        return crc32
    return int(isal_zlib.crc32_combine(crc32 ^ isal_zlib.crc32(rest), 0, (1 << 32) - 1 - len(rest)))
