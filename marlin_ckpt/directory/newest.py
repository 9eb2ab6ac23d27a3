"""The one search for the newest checkpoint that is good, whatever good means to the caller."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.formats.verdicts import Verdict
from marlin_ckpt.formats.verification import verify

Found = TypeVar("Found")


def newest(candidates: Callable[[], Iterable[str]], attempt: Callable[[str], Found | None]) -> Found | None:
    """Tries files, newest first, until one is good.

    Args:
        candidates: lists the files; called again where one has vanished meanwhile, since a newer one may have
            come in its place.
        attempt: tries a file once. It returns None where the file is to be passed over, and raises
            CheckpointNotFoundError where it has vanished; what else it raises ends the search.

    Returns:
        what `attempt` returned of the first good one; None where there is none.
    """
    tried: set[str] = set()
    has_vanished = True
    while has_vanished:
        has_vanished = False
        for path in candidates():
            if path in tried:
                continue
            tried.add(path)  # also where it vanishes: a link that leads nowhere would be listed for ever
            try:
                found = attempt(path)
            except CheckpointNotFoundError:
                has_vanished = True
                break
            if found is not None:
                return found
    return None


def newest_intact(
    candidates: Callable[[], Iterable[str]], on_passed_over: Callable[[Verdict], None] = lambda _: None
) -> str:
    """The path of the first of some files, newest first, that is intact or soundly repacked, or "".

    Args:
        candidates: as for `newest`.
        on_passed_over: called with the verdict on each file that is not intact: files without checksums are
            among them, since nothing proves their data.
    """

    def attempt(path: str) -> str | None:
        verdict = verify(path)
        if verdict.status.is_sound:
            return path
        on_passed_over(verdict)
        return None

    return newest(candidates, attempt) or ""
