"""Saves that share blocks on real XFS and btrfs, where the kernel fails the sharing or kills the process."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.adversity.test_strace import Call, calls_in, faults_of, killed_wrongly, saving
from tests.support.replayed_disk import SYSTEMS, memory, new_disk

FULL = ["ENOSPC", "EDQUOT"]
WRITTEN_ANEW = ["EXDEV", "EOPNOTSUPP", "EINVAL", "EIO", "EPERM", "ETXTBSY", "EINTR"]


@pytest.fixture(scope="module", params=SYSTEMS)
def save(request, cases) -> Iterator[Callable[..., dict]]:
    """Saves there; what is here needs root and some minutes, and is for the campaign."""
    if not cases(0, 1) or os.geteuid() or not shutil.which(SYSTEMS[request.param].make[0]):
        pytest.skip("needs --campaign, root, mkfs.xfs and mkfs.btrfs")
    with memory() as folder, new_disk(folder, request.param) as disk, saving(disk) as found:
        yield found


@pytest.fixture(scope="module")
def calls(save) -> list[Call]:
    found = save("sharing")
    assert (found["errno"], found["holds"]) == (0, "new")
    return calls_in("sharing", found["log"])


def test_blocks_that_the_kernel_does_not_share_are_written_or_its_errno_is_that_of_the_error(save, calls):
    clones = [call for call in calls if "FICLONERANGE" in call.line]
    assert len(clones) == 2
    wrong = []
    for call in clones:
        for code in [*FULL, *WRITTEN_ANEW]:
            for lasting in ["", "+"]:
                found = save("sharing", f"ioctl:error={code}:when={call.number}{lasting}")
                expected = (getattr(errno, code), "old") if code in FULL else (0, "new")
                wrong += [f"{call}, {code}{lasting}: {one}" for one in faults_of(found, *expected)]
    assert not wrong, "\n".join(wrong)


def test_a_kill_at_any_call_of_a_save_that_shares_leaves_the_old_or_the_new_file(save, calls):
    assert any("FICLONERANGE" in call.line for call in calls)
    assert killed_wrongly(save, calls, range(len(calls))) == []
