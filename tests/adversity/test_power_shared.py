"""What is left of saves that share blocks with earlier files if the power goes at any moment."""

from __future__ import annotations

import itertools

import pytest

from marlin_ckpt.formats import digests
from tests.support.clones import BLOCK, Clones
from tests.support.power_findings import Finder, faults
from tests.support.power_loss import ROOT, SECTOR_BYTES, Disk, Enter, Mark, Resize, Share, Sync, Write
from tests.support.recorded_calls import Recorder
from tests.support.recorded_saves import CHECKPOINTS, SAVES, record, save_sharing

NUMBERS = [number for number, save in enumerate(SAVES) if save.directory == CHECKPOINTS]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory) -> Recorder:
    """The calls of saves to new names and over older files, through the page cache and past it."""
    with pytest.MonkeyPatch.context() as patch:
        Clones().put_in(patch)
        patch.setattr(digests, "LEAST_BYTES", 4096)
        return record(tmp_path_factory.mktemp("recorded") / "disk", save_sharing, NUMBERS)


@pytest.fixture
def finder(tmp_path) -> Finder:
    return Finder(tmp_path / "found")


def shares(trace: list) -> list[Share]:
    """Those of checkpoints: of a trial it is one block."""
    return [call for call in trace if isinstance(call, Share) and call.size > BLOCK]


def test_a_power_loss_at_any_moment_leaves_all_that_was_reported_saved(recorder, finder, cases):
    trace = recorder.trace
    assert len(shares(trace)) >= 4
    # When most of the first save that shares is not synced is looked at in each run of the tests.
    share = shares(trace)[0]
    first = (
        next(
            number for number, call in enumerate(trace) if isinstance(call, Sync) and call.node == share.node
        )
        - 1
    )
    report = next(number for number in range(first, len(trace)) if isinstance(trace[number], Mark))
    found = faults(trace, finder, cases(0, 200), cases(first, 0), cases(report, len(trace)))
    assert list(itertools.islice(found, 20)) == []
    assert len(finder.seen) >= cases(100, 10_000)


def test_blocks_that_are_shared_and_not_synced_could_be_lost(recorder, finder, cases):
    trace, unnoticed = recorder.trace, []
    for share in shares(trace)[: cases(2, 100)]:
        at = trace.index(share)
        sync = next(
            n for n in range(at, len(trace)) if isinstance(trace[n], Sync) and trace[n].node == share.node
        )
        report = next(n for n in range(sync, len(trace)) if isinstance(trace[n], Mark))
        without = trace[:sync] + trace[sync + 1 :]
        if not any(faults(without, finder, first=report - 1, last=report - 1)):
            unnoticed.append(share)
    assert unnoticed == []


def test_of_what_is_shared_any_sector_can_be_missing_until_a_sync_and_nothing_is_there_but_what_was_synced():
    data = b"1" * SECTOR_BYTES + b"2" * SECTOR_BYTES
    source = [Resize(1, 0), Write(1, 0, data)]
    new = [Resize(2, 0), Enter(ROOT, (("new", 2),)), Sync(ROOT, "."), Share(2, 0, 1, 0, len(data))]

    def left(*calls) -> set[bytes]:
        disk = Disk()
        for call in calls:
            disk.do(call)
        return {tree["new"].data for tree in disk.systematic()}

    zeros = bytes(SECTOR_BYTES)
    torn = {
        b"",
        data,
        data[:SECTOR_BYTES],
        zeros + data[SECTOR_BYTES:],
        zeros * 2,
        data[:SECTOR_BYTES] + zeros,
    }
    assert left(*source, Sync(1, "source"), *new) == torn
    assert left(*source, Sync(1, "source"), *new, Sync(2, "new")) == {data}
    assert left(*source, *new, Sync(2, "new")) == {zeros * 2}
