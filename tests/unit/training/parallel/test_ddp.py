"""Training on many ranks: as on one, and resumed as if it had never stopped."""

from __future__ import annotations

import pytest

from tests.support import ranks

_WORK = "tests.support.training_ranks"


def test_two_ranks_train_as_one_process_on_the_same_batches(tmp_path):
    first, second = ranks.run(2, f"{_WORK}:equals_one_process", directory=str(tmp_path))

    for name, found in first.items():
        assert found["many"] == pytest.approx(found["one"], rel=1e-9, abs=1e-12), name
        assert found["many"] == second[name]["many"]
        assert sorted(found["seen"] + second[name]["seen"]) == sorted(found["seen_by_one"])
        assert found["steps"][0] == found["steps"][1]
        assert found["validated"] == second[name]["validated"] == list(range(13))
        for metric, value in found["metrics"][0].items():
            assert value == pytest.approx(found["metrics"][1][metric], rel=1e-9)
        assert found["metrics"] == second[name]["metrics"]


@pytest.mark.parametrize(("world_size", "size"), [(2, 8), (3, 9)])
def test_a_run_on_many_ranks_that_is_stopped_ends_as_if_never_stopped(tmp_path, world_size, size):
    cases = [
        [{}, {}, {}],
        [{}, {"gpu_batch_size_limit": 2, "train_batch_size": 4 * world_size}, {"async_save": True}],
    ]

    found = ranks.run(world_size, f"{_WORK}:resumes", directory=str(tmp_path), size=size, cases=cases)

    for one in found:
        for case in one.values():
            assert case["differ"] == {}
            assert [code for code, *_ in case["codes"]] == [143] * 4
    assert all(one == found[0] for one in found)
