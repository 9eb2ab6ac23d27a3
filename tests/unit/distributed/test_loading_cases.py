"""What does not fit, what is converted, and what is left out, where two ranks load a sharded checkpoint."""

from __future__ import annotations

import pytest

from tests.support import ranks

_WORK = "tests.support.loading_cases"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return ranks.run(2, f"{_WORK}:run", place=str(tmp_path_factory.mktemp("cases")))


def test_states_that_do_not_fit_are_refused_in_the_words_for_files_and_before_anything_changes(found):
    norm = [
        f"net.norm.{name}"
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    for one in found:
        said, is_unchanged, missing, unexpected, mismatched, is_loaded = one["lacks"]
        assert said == [
            "StateMismatchError",
            "net.extra.weight is missing in the file",
            "net.extra.bias is missing in the file",
            "net.scalar is () in the file, (3,) here",
            *(f"{name} is not in the module" for name in norm),
            "optimizer.state.0.exp_avg is (2, 3) in the file, (4, 4) here",
        ]
        assert is_unchanged
        assert is_loaded
        assert missing == ["net.extra.bias", "net.extra.weight"]
        assert unexpected == sorted(norm)
        assert mismatched == {
            "net.scalar": "is () in the file, (3,) here",
            "optimizer.state.0.exp_avg": "is (2, 3) in the file, (4, 4) here",
        }


@pytest.mark.parametrize("case", ["converts", "strips", "by_names", "into_tensors", "newest_of_directory"])
def test_values_are_those_that_were_saved_where(found, case):
    assert [one[case] for one in found] == [[], []]


def test_what_was_saved_whole_is_loaded_into_parts(found):
    assert [one["plain_into_parts"] for one in found] == [[True], [True]]


def test_large_tensors_that_no_live_object_takes_are_left_out_by_several_ranks(found):
    assert [one["spares"] for one in found] == [[True, True, False]] * 2


def test_a_folder_that_is_not_there_is_an_error_at_all_ranks(found):
    assert [one["vanished"] for one in found] == [["CheckpointNotFoundError"] * 2] * 2
