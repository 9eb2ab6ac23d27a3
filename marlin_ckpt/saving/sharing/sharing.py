"""Writes a file that shares what has not changed with those that this process wrote or read before it."""

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.digests import Origin, check_installed
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.shared import ChangedError, Held, Same, Shared, alignment_for
from marlin_ckpt.formats.torch.writer import Written
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.saving.sharing import decide
from marlin_ckpt.saving.sharing.comparing import Data, found
from marlin_ckpt.saving.sharing.looking import is_unchanged
from marlin_ckpt.saving.sharing.past import Past, Source, Staying, member_of
from marlin_ckpt.storage.paths import absolute
from marlin_ckpt.storage.threads import in_order
from marlin_ckpt.urls import is_url

Check = Callable[[], None]
Done = TypeVar("Done")
_MOST_LOOKED_AT = 8  # files on either side, for one that holds the same


class Filled(NamedTuple, Generic[Done]):
    """What became of a file that may share.

    Attributes:
        done: what the function that wrote it has returned.
        held: the large records that it holds.
        compared_s: how long it took to compare, in seconds.
    """

    done: Done
    held: Mapping[str, Held]
    compared_s: float


class Sharing:
    """How one save shares.

    Attributes:
        path: of the new checkpoint, absolute.
    """

    def __init__(self, past: Past, path: str, origin: Origin, staying: Callable[[int], Staying]) -> None:
        """Takes what is known before it begins.

        Args:
            past: what this process has written before.
            path: of the new checkpoint, absolute.
            origin: of the bytes that it writes.
            staying: which checkpoints stay once the new one of this size, in bytes, is there.
        """
        self._past, self.path, self._origin, self._staying = past, path, origin, staying

    @functools.cached_property
    def alignment(self) -> int:
        """The multiple at which the data of the new checkpoint starts."""
        return self._past.alignment(os.path.dirname(self.path))

    def written(self, data: Data, write: Callable[[Shared, Check], Written]) -> Written:
        """Writes a checkpoint that is a file.

        Args:
            data: of its records.
            write: as for `filled`.

        Returns:
            what `write` returns, with the time that it took to compare.

        Raises:
            Whatever `write` raises; then the file is not there.
        """
        size = sum(data.sizes.values())
        alignment = alignment_for(data.sizes, self.alignment)
        found = self.filled(data, lambda: self.staying(size), write, alignment=alignment)
        if alignment != ALIGNMENT:
            self.wrote(found.held)
        return replace(found.done, write_s=found.done.write_s + found.compared_s)

    def staying(self, size_bytes: int) -> Staying:
        """Which of the nearest checkpoints stay once the new one of this size is there.

        None where it does not matter, since this save shares nothing.
        """
        if decide.is_full(self._origin.save_number):
            return Staying()
        return Staying(*(one[:_MOST_LOOKED_AT] for one in self._staying(size_bytes)))

    def wrote(self, held: Mapping[str, Held], member: str = "") -> None:
        """Remembers what a file holds that is durable; `member` as for `filled`."""
        if self.alignment != ALIGNMENT:
            self._past.wrote(self.path, held, member)

    def filled(
        self,
        data: Data,
        staying: Callable[[], Staying],
        write: Callable[[Shared, Check], Done],
        member: str = "",
        alignment: int | None = None,
    ) -> Filled[Done]:
        """Has a file written that shares what it can.

        Args:
            data: of its records.
            staying: says which checkpoints stay once the new one is there.
            write: writes it with what is shared, and calls the second argument before the file is final; a
                second time, and nothing is shared, where this raises.
            member: the name of the file in the checkpoint, unless it is this itself.
            alignment: the multiple at which the data of this file starts; None: that of all.

        Raises:
            Whatever `write` raises.
        """
        nothing = Shared(alignment or self.alignment, self._origin, {}, {})
        if nothing.alignment == ALIGNMENT:
            return Filled(write(nothing, _nothing), nothing.held, 0.0)
        began = time.perf_counter()
        with self._past.sources(os.path.dirname(self.path), self._origin.run_id, member) as sources:
            shared = nothing._replace(records=self._same(sources, data, staying, member))
            compared_s = time.perf_counter() - began
            try:
                done = write(shared, lambda: _check(sources))
            except ChangedError:
                done = write(nothing, _nothing)
        return Filled(done, shared.held, compared_s)

    def _same(
        self, sources: Sequence[Source], data: Data, staying: Callable[[], Staying], member: str
    ) -> dict[str, Same]:
        """What of the data is in one of the sources, and may be shared with it."""
        if not sources or decide.is_full(self._origin.save_number):
            return {}
        stay = staying()
        held = [{name: known.digested for name, known in one.own.held.items()} for one in sources]
        oldest = decide.oldest_shared(self._origin.save_number)
        before, after = self._held(stay.before, member), self._held(stay.after, member)
        may = decide.copies(list(zip(sources, held, strict=True)), before, after, oldest)
        wanted = []
        for name, copies in may.items():
            fitting = [one for one in copies if one.place.own.held[name].size == data.sizes.get(name)]
            if fitting:
                wanted.append((name, fitting))
        same = in_order(lambda one: (one[0], found(data, self.alignment, *one)), wanted)
        return {name: one for name, one in same if one is not None}

    def _held(self, paths: Iterable[str], member: str) -> Iterator[decide.Records]:
        return (self._past.looks.at(member_of(path, member)) for path in paths)


class InBucket(Sharing):
    """How a save to a bucket shares: the store copies what is the same in the one before it.

    Each object has bytes of its own. So it needs no other, and data starts in it as in any file.
    """

    alignment = ALIGNMENT

    def written(self, data: Data, write: Callable[[Shared, Check], Written]) -> Written:  # noqa: ARG002
        """Writes a checkpoint; see `Sharing.written`."""
        check_installed()
        earlier = self._past.earlier(os.path.dirname(self.path))
        if decide.is_full(self._origin.save_number):
            earlier.last = None
        return write(Shared(ALIGNMENT, self._origin, {}, {}, earlier), _nothing)


def sharing_of(
    past: Past,
    path: PathText,
    manifest: Manifest,
    staying: Callable[[int], Staying] | None = None,
    is_going: Callable[[str], bool] = lambda _: False,
) -> Sharing:
    """How the next save shares.

    Args:
        past: what this process has written before.
        path: of the new checkpoint.
        manifest: of it.
        staying: see `Sharing`; None: all that this process has written, that is still there and does not go.
        is_going: says of the path of one of these whether it is removed once the new one is there.
    """
    own, origin = absolute(path), Origin(manifest.run_id, manifest.save_number)

    def all_others(_: int) -> Staying:
        paths = [one.path for _, one in past.still_there(os.path.dirname(own))]
        return Staying([one for one in paths if one != own and not is_going(one)])

    kind = InBucket if is_url(path) else Sharing
    return kind(past, own, origin, staying or all_others)


def _nothing() -> None:
    """There is nothing to be checked."""


def _check(sources: Iterable[Source]) -> None:
    """Raises where a file is not what it was: what was shared may be something else."""
    for one in sources:
        if not is_unchanged(one.fd, one.own.identity):
            raise ChangedError("has changed while its bytes were shared", one.own.path)
