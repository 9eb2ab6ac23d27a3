"""Where the parts of an object begin and end, of which some are copied from another object of the store.

A part has at least 5 MiB, but for the last one. So a stretch that could be copied is sent where it is short,
and of a longer one the first bytes are sent if the part in front of it is too short without them.
"""

from typing import NamedTuple

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
LEAST_PART = 5 << 20
_MOST_PARTS = 9_900  # of 10,000, since the length of an object is known roughly
_MOST_COPIED = 128 << 20  # by one request, so that several go on at a time
_SPARE = 3  # parts that a copy adds, those around it with it


class Cut(NamedTuple):
    """A part of an object.

    Attributes:
        start: where it begins.
        end: where it ends.
        source: where the same bytes begin in the other object; None: they are sent.
    """

    start: int
    end: int
    source: int | None


class Cutter:
    """Cuts an object into parts, while it comes block by block.

    What is yet to be cut is a stretch to be sent, maybe with one behind it that may be copied; or one that
    will be copied, and that goes on.

    Attributes:
        at: where the last block ended.
    """

    def __init__(self, part_bytes: int, size_bytes: int) -> None:
        """Begins with nothing.

        Args:
            part_bytes: how long what is to be sent becomes before it is a part; 16 MiB or more.
            size_bytes: of the object, roughly.
        """
        self._part_bytes, self._size_bytes = part_bytes, size_bytes
        self._least_copied = max(LEAST_PART, part_bytes // 2)
        self._count = 0
        self._sends_from = self.at = 0
        self._run: tuple[int, int] | None = None  # its start here, and in the other object
        self._is_copied = False

    @property
    def copied_from(self) -> int | None:
        """Where the stretch begins that will be copied, and ends at the last block; None: there is none."""
        return self._run[0] if self._run and self._is_copied else None

    @property
    def needed_from(self) -> int:
        """Where that begins of which the bytes are still needed."""
        return self.at if self._is_copied else self._sends_from

    def add(self, end: int, source: int | None) -> list[Cut]:
        """Takes the next block.

        Args:
            end: of the block, which begins where the last one ended.
            source: where the same bytes begin in the other object; None: nowhere.

        Returns:
            the parts that are certain now.
        """
        start, self.at = self.at, end
        if self._run is not None and source == self._run[1] + start - self._run[0]:
            return self._decided()
        cuts = self._ended(start)
        # Some of it may have been sent by `fill` already.
        if source is not None and start >= self._sends_from:
            self._run = start, source
        return cuts + self._decided()

    def full(self, end: int) -> list[Cut]:
        """Takes the start of a block, after which memory is full with all from `needed_from` on.

        Returns:
            the parts by which there is some again.
        """
        if self._is_copied or end - self._sends_from < self._part_bytes:
            return []
        if self._run is not None and self._run[0] - self._sends_from >= LEAST_PART and self._has_spare():
            return [self._sent(self._run[0])]
        self._run = None
        return [self._sent(end)]

    def finish(self) -> list[Cut]:
        """Returns the last parts, once the last block was added."""
        cuts = self._ended(self.at)
        return cuts + ([self._sent(self.at)] if self.at > self._sends_from else [])

    def _decided(self) -> list[Cut]:
        """Decides whether the stretch that may be copied will be, and cuts one that has become long."""
        cuts = []
        if self._run is not None and not self._is_copied and self._has_spare():
            start, source = self._run
            before = start - self._sends_from
            lacking = max(0, LEAST_PART - before) if before else 0
            if self.at - start - lacking >= self._least_copied:
                if before:
                    cuts.append(self._sent(start + lacking))
                self._run, self._is_copied = (start + lacking, source + lacking), True
        if self._run is not None and self._is_copied and self.at - self._run[0] >= _MOST_COPIED:
            cuts += self._ended(self.at)
        return cuts

    def _ended(self, at: int) -> list[Cut]:
        """Ends the stretch that may be copied; if it is not, it is sent."""
        run, is_copied = self._run, self._is_copied
        self._run, self._is_copied = None, False
        if run is None or not is_copied:
            return []
        self._count += 1
        self._sends_from = at
        return [Cut(run[0], at, run[1])]

    def _sent(self, end: int) -> Cut:
        start, self._sends_from = self._sends_from, end
        self._count += 1
        return Cut(start, end, None)

    def _has_spare(self) -> bool:
        rest = -(-max(0, self._size_bytes - self.at) // self._part_bytes)
        return self._count + rest + _SPARE <= _MOST_PARTS


class EvenCutter:
    """Cuts an object into parts of one length, each of which is copied as a whole or sent; see `Cutter`.

    A block ends where a part does.
    """

    copied_from = None  # of a part it is known once all of it has come

    def __init__(self, part_bytes: int) -> None:
        """Begins with nothing; see `Cutter`."""
        self._part_bytes = part_bytes
        self.at = self.needed_from = 0
        self._source: int | None = None  # of the part

    def add(self, end: int, source: int | None) -> list[Cut]:
        """Takes the next block; see `Cutter.add`."""
        start, self.at = self.at, end
        if start == self.needed_from:
            self._source = source
        elif self._source is None or source != self._source + start - self.needed_from:
            self._source = None
        return self.finish() if end - self.needed_from == self._part_bytes else []

    def full(self, end: int) -> list[Cut]:  # noqa: ARG002 - a block has ended there
        """Returns nothing; see `Cutter.full`."""
        return []

    def finish(self) -> list[Cut]:
        """Returns the part that has come last; see `Cutter.finish`."""
        start, self.needed_from = self.needed_from, self.at
        return [Cut(start, self.at, self._source)] if self.at > start else []
