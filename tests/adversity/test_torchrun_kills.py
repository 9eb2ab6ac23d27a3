"""kill -9 of ranks that torchrun has started, while they train with FSDP2 and save after each step."""

from __future__ import annotations

import pytest

from tests.support.scripts import found_by

KINDS = ["fresh", "over", "fresh_behind", "over_behind"]


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_kill_the_last_save_that_was_reported_or_a_later_one_is_there_whole(
    directory, cases, record_property, kind
):
    if not cases(0, 1):
        pytest.skip("--campaign runs it: each start of torchrun takes seconds; test_rank_kills.py has none")
    found = found_by("torchrun_kills.py", directory, **{kind: 5})[kind]

    record_property("of them the old one there, a newer one", [found["kills"], found["old"], found["new"]])
    assert (found["torn"], found["lost"], found["left"], found["unlike"]) == ([], [], [], [])
    assert found["old"] + found["new"] == 5
