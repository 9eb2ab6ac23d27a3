"""Every system call of a save is made to fail in turn: past the page cache, and through it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marlin_ckpt import StorageError
from marlin_ckpt.saving import background
from marlin_ckpt.storage.local import publishing
from marlin_ckpt.storage.local.threads import WritingThreads
from tests.support.failing_calls import (
    ABSORBED,
    ALL,
    CALLS,
    CODES,
    REFUSALS,
    Campaign,
    Fault,
)
from tests.support.leftovers import open_descriptors

KINDS = {
    "direct": {},
    "buffered": {"past_the_cache": False},
    "first": {"past_the_cache": False, "over_an_older": False},
    "behind": {"behind": True},
    "behind, buffered": {"behind": True, "past_the_cache": False},
}


def begin(kind: str, directory: Path) -> Campaign:
    campaign = Campaign(directory, **KINDS[kind])
    if kind in ("direct", "behind") and "pwrite threads" not in campaign.labels:
        pytest.skip("the file system of the temporary directory has no O_DIRECT")
    return campaign


@pytest.fixture
def place(directory: str, tmp_path: Path) -> Path:
    """In memory, unless all that is in memory goes through the page cache."""
    try:
        os.close(os.open(f"{directory}/tried", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        return tmp_path
    os.unlink(f"{directory}/tried")
    return Path(directory)


@pytest.fixture(params=KINDS)
def campaign(request, place: Path) -> Campaign:
    return begin(request.param, place)


@pytest.fixture(scope="module")
def codes(cases: Callable[[int, int], int]) -> dict[str, list[int]]:
    """The errors to try, by what becomes of the calls after the one that fails."""
    everything = [*CODES, *REFUSALS]
    return {
        "once": everything,
        "from then on": everything[: cases(len(CODES), len(everything))],
        "then others": everything[: cases(2, len(everything))],
    }


@pytest.fixture(scope="module")
def one_in(cases: Callable[[int, int], int]) -> int:
    """Each call fails with one in so many of the errors; the errors take turns with the calls."""
    return cases(5, 1)


def faults(campaign: Campaign, codes: dict[str, list[int]], later: str, one_in: int) -> Iterator[Fault]:
    for number in campaign.own:
        for code in codes[later][number % one_in :: one_in]:
            other = errno.EIO if code == errno.EROFS else errno.EROFS
            yield Fault(number, code, {"once": 0, "from then on": code, "then others": other}[later])


def test_hundreds_of_failures_are_tried_in_every_kind_of_call_that_a_save_makes(place, cases, codes, one_in):
    tried, made = 0, set()
    for kind in KINDS:
        (place / kind).mkdir()
        campaign = begin(kind, place / kind)
        tried += sum(1 for later in codes for _ in faults(campaign, codes, later, one_in))
        made |= {campaign.labels[number].split()[0] for number in campaign.own}
    assert made == CALLS - {"scandir"}  # the sweep's
    assert tried > cases(300, 800)


@pytest.mark.parametrize("later", ["once", "from then on", "then others"])
def test_whichever_call_fails_the_first_cause_is_told_and_the_old_file_stands_or_the_call_is_done_without(
    campaign, codes, later, one_in
):
    for fault in faults(campaign, codes, later, one_in):
        campaign.strike(fault)
    assert not campaign.found, "\n".join(campaign.found)


@pytest.mark.parametrize("later", [0, errno.EIO], ids=["once", "from then on"])
@pytest.mark.parametrize("campaign", ["direct"], indirect=True)
def test_whichever_call_fails_while_litter_is_removed_the_save_does_without_it(campaign, later, one_in):
    for number in campaign.sweep:
        for code in CODES[number % one_in :: one_in]:
            campaign.strike(Fault(number, code, later and code))
    assert not campaign.found, "\n".join(campaign.found)


def test_after_a_failure_that_a_save_does_without_it_still_bears_any_other(campaign, cases):
    for number in campaign.own:
        for code in ABSORBED.get(campaign.labels[number], ALL - ALL) & {*REFUSALS, errno.EIO}:
            for later_from in range(number + 1, len(campaign.labels), cases(18, 1)):
                campaign.strike(Fault(number, code, errno.ENOSPC, later_from))
    assert not campaign.found, "\n".join(campaign.found)


@pytest.mark.parametrize("later", [0, errno.EIO], ids=["once", "from then on"])
def test_however_little_a_write_takes_the_file_is_whole(campaign, later):
    for number, label in enumerate(campaign.labels):
        for short_bytes in (1, 512, 1000, 4095) if "write" in label else ():
            campaign.strike(Fault(number, errno.EIO, later, short_bytes=short_bytes))
    assert campaign.tried >= 12
    assert not campaign.found, "\n".join(campaign.found)


def write_in_place(
    directory_fd: int, name: str, write: Callable[[int], int], _: Callable[[], None], **__: bool
) -> publishing.Published:
    fd = publishing.os.open(name, os.O_WRONLY | os.O_TRUNC, dir_fd=directory_fd)
    return publishing.Published(publishing._fill(fd, write)[0], 0, 0)


def sync_again(fd: int, write: Callable[[int], int]) -> tuple[int, float]:
    size_bytes = write(fd)
    with contextlib.suppress(OSError):
        publishing.os.fsync(fd)
    publishing.os.fsync(fd)
    publishing.os.close(fd)
    return size_bytes, 0


def stop_one_of_two(threads: WritingThreads, stop=WritingThreads.stop) -> None:
    stop(threads)
    threading.Thread(target=LET_GO.wait).start()


LET_GO = threading.Event()
CARELESS = [
    ("old file", publishing, "_publish_in", write_in_place),
    ("old file", publishing, "_put_back", lambda *_: None),
    ("fsync repeated", publishing, "_fill", sync_again),
    ("a descriptor", publishing, "close_quietly", lambda _: None),
    ("a thread", WritingThreads, "stop", stop_one_of_two),
    ("litter", os, "unlink", lambda *_, **__: None),
    ("errno None", StorageError, "of", lambda action, where, _: StorageError(action, where)),
]


@pytest.mark.parametrize(("harm", "owner", "name", "careless"), CARELESS)
def test_a_precaution_left_out_would_be_noticed(place, harm, owner, name, careless):
    campaign, descriptors = begin("direct", place), open_descriptors()
    LET_GO.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, careless)
        for number in campaign.own:
            campaign.strike(Fault(number, errno.EIO))
    LET_GO.set()
    for fd in open_descriptors() - descriptors:
        os.close(fd)
    assert any(harm in one for one in campaign.found)


def test_a_failure_of_an_asynchronous_save_that_is_told_twice_would_be_noticed(place, monkeypatch):
    campaign, told = begin("behind", place), []

    def ended(
        behind: background.Background,
        ended: Callable[..., BaseException | None] = background.Background.ended,
    ) -> BaseException | None:
        if error := ended(behind):
            told.append(error)
        return told[0] if told else None

    monkeypatch.setattr(background.Background, "ended", ended)
    campaign.strike(Fault(campaign.labels.index("pwrite threads"), errno.EIO))
    assert any("told again" in one for one in campaign.found)
