"""Training on many ranks: as on one, and resumed as if it had never stopped."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from marlin_ckpt import AbstractCheckpointer, ConfigError, Trainer, TrainerArguments, inspect, load
from tests.support import ranks
from tests.support.modules_of_ranks import Plain

_WORK = "tests.support.training_ranks"


@pytest.mark.parametrize("backend", ["ddp", "fsdp2"])
def test_two_ranks_train_as_one_process_on_the_same_batches(tmp_path, backend):
    first, second = ranks.run(2, f"{_WORK}:equals_one_process", directory=str(tmp_path), backend=backend)

    for name, found in first.items():
        assert found["many"] == pytest.approx(found["one"], rel=1e-9, abs=1e-12), name
        assert found["many"] == second[name]["many"]
        assert sorted(found["seen"] + second[name]["seen"]) == sorted(found["seen_by_one"])
        assert found["steps"][0] == found["steps"][1]
        assert found["validated"] == second[name]["validated"] == list(range(13))
        for metric, value in found["metrics"][0].items():
            assert value == pytest.approx(found["metrics"][1][metric], rel=1e-9)
        assert found["metrics"] == second[name]["metrics"]


_CASES = {
    "plain": [{}, {}, {}],
    "accumulated": [{}, {"gpu_batch_size_limit": 2}, {"async_save": True}],
    "sharded": [{}, {"backend": "fsdp2", "gpu_batch_size_limit": 2}, {}],
    "workers": [{"workers": 2}, {}, {}],
    "stream": [{"loader": "stream"}, {"max_train_steps_per_epoch": 4}, {}],
    "scaled": [
        {"foreach": True},
        {"backend": "ddp-amp", "amp_dtype": "float16", "index_by": "step"},
        {"period": 4, "async_save": True},
    ],
}


@pytest.mark.parametrize(
    ("world_size", "size", "sample", "names"),
    [
        (2, 8, 2, ["accumulated", "scaled", "sharded", "workers", "stream"]),
        (3, 12, 1, ["sharded", "accumulated"]),
        (4, 16, 1, ["plain"]),
    ],
)
def test_a_run_on_many_ranks_that_is_stopped_ends_as_if_never_stopped(
    tmp_path, world_size, size, sample, names, cases
):
    names = names[: cases(sample, len(names))]
    chosen = [_CASES[name] for name in names]

    found = ranks.run(world_size, f"{_WORK}:resumes", directory=str(tmp_path), size=size, cases=chosen)

    for one in found:
        for name, case in zip(names, one.values(), strict=True):
            assert case["differ"] == {}, name
            assert [code for code, *_ in case["codes"]] == [143] * 3
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("backend", ["ddp", "fsdp2"])
def test_ranks_with_uneven_data_end_together_and_ranks_with_other_modules_are_refused(tmp_path, backend):
    found = ranks.run(3, f"{_WORK}:edges", directory=str(tmp_path), backend=backend)

    seen = [one["uneven"][0] for one in found]
    assert [len(one) for one in seen] == [13] * 3  # of 41 samples
    assert len(set(itertools.chain(*seen))) == 39
    assert {tuple(one["uneven"][1]) for one in found} == {tuple(range(13))}
    # Rank 2 has 11 of 57 samples: 6 batches of 2, the last of 1, for steps of 2 batches. Rank 1 has 15.
    assert [len(one["stream"][0]) for one in found] == [12, 12, 11]
    assert {one["stream"][1] for one in found} == {3}
    assert all(one["stream"][2] == found[0]["stream"][2] for one in found)
    for one in found:
        if backend == "fsdp2":
            assert one["wrapped"]["sharded"] == [True, False, True]
            assert one["wrapped"]["by_class"] == pytest.approx(one["weights"], rel=1e-9)
            assert one["wrapped"]["coarse"] == pytest.approx(one["weights"], rel=0.2, abs=0.1)
            assert one["wrapped"]["coarse"] != one["weights"]
            text = "trainer.fsdp.wrap: the module has no Linaer; did you mean Linear?"
            assert one["wrapped"]["unknown"] == ["ConfigError", text]
        # The 13 samples of one loader are 5, 4 and 4, that of the other is of rank 0; in training all have as
        # many. That all but rank 0 want to stop does not end the run.
        means = (0 * 5 + 1 * 4 + 2 * 4) / 13, 0, (0 * 6 + 1 * 4 + 2 * 4) / 14, 1
        assert one["metrics"] == [*map(pytest.approx, means), 1]
        assert one["differ"][0] == "TrainingError"
        assert one["differ"][1].endswith("the first that differs is layers.0.weight")
        assert "it is on torch's meta device" in one["meta"][1]
        kind, text, is_there = one["apart"]
        assert (kind, is_there) == ("StorageError", one is found[0])
        assert "this rank does not see the folder that rank 0 has made" in text
        few = "trainer.train_batch_size: 2 samples are too few for 3 ranks"
        assert one["small"] == ["ConfigError", few]
        assert "ended before the number of batches" in one["liar"][1]


def test_ranks_save_and_stop_together_and_fail_together(tmp_path):
    first, second = ranks.run(2, f"{_WORK}:saves", directory=str(tmp_path))

    assert first.pop("failed") == ["StorageError", "no room: /full"]
    assert second.pop("failed") == ["StorageError", "no room: /full"]
    assert first["compiled"][1] != second["compiled"].pop(1)
    names = ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    assert first["compiled"].pop(1)
    assert first["compiled"] == [names, 1, [[names]]]
    manifest = inspect(tmp_path / "compiled-parts" / "model_0.dcp").manifest
    assert manifest is not None
    assert manifest.optimizers == {"trainer_state.optimizers[0]": [names]}
    whole = load(tmp_path / "compiled-parts" / "model_0.dcp")["module_interface_state"]
    assert {name: one.shape for name, one in whole.items()} == {
        name: one.shape for name, one in Plain().state_dict().items()
    }
    assert first == second
    assert first["given"][:2] == [True, 1]
    assert first["amp"][0] < 65536.0  # halved at both for what one has found infinite
    assert all(map(math.isfinite, first["amp"][1]))
    assert first["step"] == [[143, "model_3.pt"], True, [".marlin-ckpt", "model_12.pt", "model_3.pt"]]
    assert first["validation"] == [[130, "model_6.pt"], True, [".marlin-ckpt", "model_12.pt", "model_6.pt"]]
    assert first["save"] == [[], True, [".marlin-ckpt", "model_12.pt", "model_3.pt"]]
    state = torch.load(tmp_path / "step" / "model_3.pt")
    assert list(state["trainer_state"]["ranks"]) == ["0", "1"]
    assert next(iter(state["module_interface_state"])) == "layers.0.weight"


@pytest.mark.parametrize(("first", "backend", "world_size"), [("ddp", "sp", 1), ("fsdp2", "ddp", 3)])
def test_a_run_goes_on_after_the_same_samples_with_another_number_of_ranks(
    tmp_path, first, backend, world_size
):
    begun = ranks.run(2, f"{_WORK}:begun", directory=str(tmp_path), backend=first, steps=2)

    found = ranks.run(world_size, f"{_WORK}:continued", directory=str(tmp_path), backend=backend, fields={})

    before, after = ([*itertools.chain(*(one["seen"] for one in runs))] for runs in (begun, found))
    assert (len(before), len(after)) == (24, 24)
    assert sorted([*before, *after]) == list(range(48))
    for one in found:
        assert one["loaded"] == begun[0]["weights"]
        assert one["weights"] == found[0]["weights"]
        assert one["steps"] == 4
        assert "world_size was 2 and is" in one["exact"][1]


@pytest.mark.parametrize("backend", ["ddp", "ddp-amp", "fsdp2"])
def test_a_backend_for_many_ranks_says_how_to_start_them_where_nothing_has(tmp_path, monkeypatch, backend):
    monkeypatch.delenv("RANK", raising=False)
    args = TrainerArguments(backend=backend, device="cpu")

    with pytest.raises(ConfigError) as caught:
        Trainer(Plain(), args, checkpointer=PyMarlins())

    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        f"trainer.backend: {backend} trains in several processes, and this is one by itself"
    )
    assert caught.value.hint.endswith("torchrun --nproc-per-node 4 -m marlin_ckpt train --config F")


class PyMarlins(AbstractCheckpointer):
    """What PyMarlin asks of a checkpointer, and no more."""

    def save(self, checkpoint_state, index, force=False):
        raise AssertionError

    def load(self):
        raise AssertionError
