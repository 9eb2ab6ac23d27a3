"""What differs between ranks, and would train on in silence, is refused or said."""

from __future__ import annotations

import pytest

from tests.support import ranks

_REFUSED = {
    "rate": "in different ways: optimizers[0].param_groups[0].lr differs",
    "hidden": "optimizers[0].param_groups[0] has a tensor that is no parameter of the module",
    "split": "other training data: dataset.indices differs",
    "length": "other training data: len(dataset) differs",
    "few": "there are fewer training samples (1) than ranks (2)",
}
_REFUSED_SHARDED = {
    "buffers": "different parameters or buffers; the first that differs is shift",
    "early": "optimizers[0].param_groups[0] has a tensor that is no parameter of the module",
    "experts": "the ranks have run different parts of the module",
    "one group": "the first that differs: which parameters have gradients",
    "ties": "trainer.fsdp.wrap: layers.2.weight and again.weight are one parameter",
}


@pytest.mark.parametrize("backend", ["ddp", "fsdp2"])
def test_ranks_that_would_train_apart_or_on_the_same_samples_are_refused_or_warned(tmp_path, backend):
    found = ranks.run(2, "tests.support.differing_ranks:differ", directory=str(tmp_path), backend=backend)

    expected = _REFUSED | (_REFUSED_SHARDED if backend == "fsdp2" else {})
    for one in found:
        for name, text in expected.items():
            assert text in one[name][1], name
        assert one["quiet"] == []
    # Rank 1 has 15 of its samples, so 4 batches of 4: schedules are made for as many steps at both.
    assert found[0]["apart"] == found[1]["apart"]
    assert found[0]["apart"][:2] == [4, 4]
    assert (found[0]["counted"], found[1]["counted"]) == (list(range(0, 13, 2)), list(range(1, 13, 2)))
    first, second = found
    assert all(second[kind] == [] for kind in ("in order", "shuffled", "stream", "validation"))
    assert "the same batch, so that samples are trained on more than once" in "".join(first["in order"])
    assert "shuffles by itself, so that each rank trains on all samples" in "".join(first["shuffled"])
    assert "leave out the samples of the other ranks" in "".join(first["stream"])
    assert "validated more than once" in "".join(first["validation"])
    assert [len(first[kind]) for kind in ("in order", "shuffled", "stream", "validation")] == [1] * 4
    if backend == "ddp":
        assert [text.partition(" is no longer")[0] for text in first["straying"]] == [
            "The parameter layers.2.bias"
        ]
        assert second["straying"] == []
