"""States of many ranks that rank 0 writes as one file, and that all of them load again."""

from __future__ import annotations

from tests.support import ranks

_WORK = "tests.support.gathering_ranks"


def test_a_file_has_whole_tensors_and_every_rank_takes_its_part_of_them(tmp_path):
    for found in ranks.run(
        4, f"{_WORK}:write_and_load", place=str(tmp_path), kinds=["columns", "fsdp+tp", "hsdp"]
    ):
        assert len(found) == 12
        assert {what: differences for what, differences in found.items() if differences} == {}


def test_a_failure_of_the_writer_is_raised_at_all_ranks_which_then_save(tmp_path):
    found = ranks.run(2, f"{_WORK}:fail", place=str(tmp_path))

    assert found == [
        ["MarlinError: no space left: x", "True"], ["MarlinError: rank 0: no space left: x", "True"]
    ]  # fmt: skip


def test_what_rank_0_has_not_is_refused_and_not_lost(tmp_path):
    first, second = ranks.run(2, f"{_WORK}:lacking", place=str(tmp_path))

    assert second == [
        "UnsavableStateError: this rank has the sharded tensor stage1.w float32 [6], and rank 0 has not",
        "UnsavableStateError: this rank has ranks.1, which rank 0 has not",
        str([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), str([0.0, 1.0, 2.0, 3.0, 4.0]),
    ]  # fmt: skip
    assert first == [one.replace(": this rank", ": rank 1: this rank") for one in second]


def test_no_more_than_two_tensors_are_in_memory_while_they_are_gathered(tmp_path):
    for taken_mb, is_right in ranks.run(2, f"{_WORK}:peak", place=str(tmp_path)):
        assert is_right
        assert taken_mb < 2 * 33.6 + 8
