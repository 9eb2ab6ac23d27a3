"""Checkpoints of 4 ranks, ours and stock DCP's, loaded into live objects at 4, 2 and 1, bit for bit."""

from __future__ import annotations

import pytest

from tests.support import ranks

_WORK = "tests.support.loading_ranks"
_SAVED = {"rows": "run", "columns": "stock", "fsdp+tp": "run"}  # how it is sharded, and who saves it
_LOADED = {
    4: [
        ("rows", "hsdp"),
        ("fsdp+tp", "tp"),
        ("columns", "fsdp+tp"),
        ("columns", "rows"),
        ("rows", "columns"),
    ],
    2: [("columns", "rows"), ("fsdp+tp", "columns"), ("rows", "plain")],
    1: [("columns", "plain"), ("fsdp+tp", "plain")],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("sharded")
    found = {kind: str(place / f"{writer}_{kind}_3.dcp") for kind, writer in _SAVED.items()}
    ranks.run(4, f"{_WORK}:save", folders=found)
    return found


@pytest.mark.parametrize("world_size", _LOADED)
def test_modules_and_optimizers_get_what_was_saved_at_another_number_of_ranks(folders, world_size, cases):
    chosen = [[folders[saved], kind] for saved, kind in _LOADED[world_size]][: cases(3, 5)]

    for found in ranks.run(world_size, f"{_WORK}:reshard", cases=chosen):
        assert len(found) == 2 * len(chosen)
        assert {case: differences for case, differences in found.items() if differences} == {}


def test_torchs_own_load_reads_what_it_reads_itself(folders):
    (first, second, *_) = ranks.run(
        2, f"{_WORK}:read_by_torch", folders=[*folders.values()], kinds=["columns", "plain"]
    )

    for one in (first, second):
        assert len(one) == 4 * len(folders)
        assert {case: differences for case, differences in one.items() if differences} == {}


def test_one_process_without_a_group_loads_whole_tensors(folders):
    from tests.support.loading_ranks import whole_alone

    for kind in ("columns", "fsdp+tp"):
        assert whole_alone(folders[kind]) == []
