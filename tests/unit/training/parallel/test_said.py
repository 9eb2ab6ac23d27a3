"""What several ranks find to be said is said once."""

from __future__ import annotations

from types import SimpleNamespace

from marlin_ckpt.training.parallel import gathering


def test_what_all_ranks_say_is_said_once_and_what_some_say_with_their_numbers():
    by_rank = [["a", "b"], ["b", "c", "a"], ["d", "c", "a"], ["a", "c"]]
    sent = [gathering.packed(one) for one in by_rank]
    ranks = SimpleNamespace(world_size=4, exchanged=lambda _: sent)

    assert gathering.said(ranks, by_rank[0]) == [
        "a",
        "at ranks 0 and 1 b",
        "at ranks 1, 2 and 3 c",
        "at rank 2 d",
    ]
