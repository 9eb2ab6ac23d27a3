"""Every system call of a save that shares blocks with earlier files is made to fail in turn."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marlin_ckpt.saving.sharing import looking, sharing
from tests.support.clones import REFUSALS as CLONE_REFUSALS
from tests.support.failing_calls import CODES, REFUSALS, Fault
from tests.support.failing_shares import SharingCampaign

KINDS = {
    "direct": {},
    "buffered": {"past_the_cache": False},
    "behind": {"behind": True},
    "behind, buffered": {"behind": True, "past_the_cache": False},
}
OF_CLONES = [*dict.fromkeys([*CODES, *CLONE_REFUSALS])]


@pytest.fixture
def campaign(request, directory: str, tmp_path: Path) -> SharingCampaign:
    return SharingCampaign(Path(directory), **KINDS[request.param])


def faults(campaign: SharingCampaign, codes: list[int], one_in: int) -> Iterator[Fault]:
    """Each call with some of the errors, which take turns: once, and from then on."""
    begin = len(campaign.sweep)
    for number, label in enumerate(campaign.labels[begin:], begin):
        tried = OF_CLONES if "clone" in label else codes
        for turn, code in enumerate([*tried, *tried]):
            if (turn + number) % (-(-one_in // 10) if label == "clone temporary" else one_in) == 0:
                yield Fault(number, code, code if turn >= len(tried) else 0)


@pytest.fixture(scope="module")
def one_in(cases: Callable[[int, int], int]) -> int:
    return cases(40, 1)


@pytest.mark.parametrize("campaign", KINDS, indirect=True)
def test_whichever_call_fails_the_first_cause_is_told_or_the_file_is_written_and_the_earlier_ones_stand(
    campaign, one_in, cases
):
    assert campaign.shared
    for fault in faults(campaign, [*CODES, *REFUSALS], one_in):
        campaign.strike(fault)
    assert campaign.tried >= cases(25, 1100)
    assert not campaign.found, "\n".join(campaign.found)


@pytest.mark.parametrize("campaign", ["buffered"], indirect=True)
def test_after_a_refusal_to_share_a_save_still_bears_that_any_other_call_fails(campaign, cases):
    (number,) = [one for one, label in enumerate(campaign.labels) if label == "clone temporary"]
    for later_from in range(number + 1, len(campaign.labels), cases(4, 1)):
        for code in (errno.EIO, errno.ENOSPC):
            campaign.strike(Fault(number, errno.EXDEV, code, later_from))
    assert not campaign.found, "\n".join(campaign.found)


@pytest.mark.parametrize("campaign", ["buffered"], indirect=True)
def test_a_file_that_cannot_be_looked_at_any_more_but_is_taken_for_unchanged_would_be_noticed(
    campaign, monkeypatch
):
    monkeypatch.setattr(sharing, "is_unchanged", lambda fd, identity: looking.identity_of(fd) == identity)
    for number, label in enumerate(campaign.labels):
        if label == "fstat source":
            campaign.strike(Fault(number, errno.EIO))
    assert any("errno 5" in one for one in campaign.found)
