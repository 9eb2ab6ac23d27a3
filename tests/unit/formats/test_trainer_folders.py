"""`checkpoint-N` of the Trainer of Transformers: what makes one up, what it lacks, what it says."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from marlin_ckpt.directory import catalog
from marlin_ckpt.formats import inspection, layouts
from marlin_ckpt.formats.verdicts import Inspection, Status
from marlin_ckpt.operations import one
from marlin_ckpt.storage.local.store import open_store
from tests.support.foreign import trainer
from tests.support.foreign.hugging_face import adapter_weights, write_adapter, write_model
from tests.support.foreign.made import optimizer_state, weights
from tests.support.foreign.trainer import make_trainer, make_trainer_of_ranks, make_trainer_only_model

STATE = "trainer_state.json"
UNFINISHED = f"{STATE} is missing: the Trainer did not finish this save"


def layout(path: Path) -> str | None:
    found = catalog.entry(path)
    return found and found.layout


def inspected(path: Path) -> Inspection:
    found = catalog.entry(path)
    assert found is not None
    assert found.layout == "trainer"
    return inspection.inspect(found)


def states(path: Path) -> list[str]:
    return [node.key for node in one.inspect(path).root.children]


def change(path: Path, **changed: Any) -> None:
    state = json.loads((path / STATE).read_text())
    (path / STATE).write_text(json.dumps({**state, **changed}, indent=2, sort_keys=True))


@pytest.mark.parametrize(
    "make",
    [
        trainer.make_trainer, trainer.make_trainer_only_model, trainer.make_trainer_of_ranks,
        trainer.make_trainer_adapter, trainer.make_trainer_fsdp, trainer.make_trainer_deepspeed,
    ],
)  # fmt: skip
def test_a_whole_folder_is_complete_and_unverifiable(tmp_path, make):
    made = make(tmp_path)
    found = inspected(made.path)
    assert (found.status, found.entry.index) == (Status.COMPLETE, made.step)
    assert one.verify(made.path).status is Status.UNVERIFIABLE
    assert made.metrics.items() <= dict(found.metrics).items()


def test_each_file_is_a_state_by_its_own_name(tmp_path):
    path = make_trainer_of_ranks(tmp_path).path
    assert states(path) == [
        "model", "optimizer", "scheduler", "scaler", "rng_state_0", "rng_state_1", "training_args",
        "trainer_state",
    ]  # fmt: skip
    found = {tensor.name: tensor.file for tensor in one.inspect(path).tensors}
    assert found["model.lm_head.weight"] == "model-00003-of-00003.safetensors"
    assert found["optimizer.state.0.exp_avg"] == "optimizer.pt"


def test_the_shards_of_fsdp_are_states_by_the_names_in_them(tmp_path):
    made = trainer.make_trainer_fsdp(tmp_path)
    assert states(made.path)[:2] == ["model", "optimizer"]
    assert set(made.weights) <= {tensor.name for tensor in one.inspect(made.path).tensors}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (STATE, UNFINISHED),
        ("model.safetensors", "the weights of the model are missing"),
        ("optimizer.pt", "optimizer.pt is missing"),
        ("scheduler.pt", "scheduler.pt is missing"),
        ("rng_state.pth", "rng_state.pth is missing"),
        ("config.json", "config.json is missing"),
    ],
)
def test_what_a_run_needs_is_missed(tmp_path, name, reason):
    path = make_trainer(tmp_path).path
    (path / name).unlink()
    found = inspected(path)
    assert (found.status, found.reason) == (Status.INCOMPLETE, reason)
    assert one.verify(path).status is Status.INCOMPLETE


def test_a_save_that_died_after_the_weights_is_incomplete(tmp_path):
    path = make_trainer_only_model(tmp_path).path
    (path / STATE).unlink()
    found = one.verify(path)
    assert (found.status, found.reason) == (Status.INCOMPLETE, UNFINISHED)
    final = path.rename(tmp_path / "final")  # what `save_model` writes
    assert one.verify(final).status is Status.UNVERIFIABLE


@pytest.mark.parametrize(
    ("there", "missing"),
    [([0], [1]), ([1], [0]), ([0, 2], [1]), ([0, 1], []), ([3], [0, 1, 2])],
)
def test_a_gap_in_the_random_numbers_of_the_ranks_is_noticed(tmp_path, there, missing):
    path = make_trainer(tmp_path).path
    for rank in there:
        shutil.copy(path / "rng_state.pth", path / f"rng_state_{rank}.pth")
    (path / "rng_state.pth").unlink()
    found = inspected(path)
    expected = {f"rng_state_{rank}.pth is missing" for rank in missing}
    assert set(filter(None, found.reason.split("; "))) == expected


def test_the_name_of_a_rank_costs_no_time(tmp_path):
    path = make_trainer(tmp_path).path
    (path / "rng_state.pth").rename(path / f"rng_state_{10**15}.pth")
    assert inspected(path).status is Status.INCOMPLETE


def test_each_rank_of_fsdp_is_a_state(tmp_path):
    path = make_trainer(tmp_path).path
    (path / "model.safetensors").unlink()
    (path / "optimizer.pt").unlink()
    for rank in (0, 1):
        torch.save(weights(), path / f"pytorch_model_fsdp_0_rank{rank}.bin")
        torch.save(optimizer_state(weights()), path / f"optimizer_0_rank{rank}.bin")
    assert states(path)[:4] == ["model_rank_0", "model_rank_1", "optimizer_rank_0", "optimizer_rank_1"]
    (path / "optimizer_0_rank0.bin").unlink()
    assert inspected(path).reason == "optimizer_0_rank0.bin is missing"


def test_a_nested_folder_that_lacks_a_shard_is_named_with_it(tmp_path):
    path = trainer.make_trainer_fsdp(tmp_path).path
    (path / "optimizer_0" / "__1_0.distcp").unlink()
    found = one.verify(path)
    assert found.status is Status.INCOMPLETE
    assert "optimizer_0" in found.reason
    assert "__1_0.distcp is missing" in found.reason
    shutil.rmtree(path / "pytorch_model_fsdp_0")
    assert "the weights of the model are missing" in inspected(path).reason


def test_the_weights_of_several_models_lie_in_folders_of_their_own(tmp_path):
    path = make_trainer(tmp_path).path
    (path / "model.safetensors").unlink()
    write_adapter(path / "other", adapter_weights())
    write_model(path / "0_Transformer", weights(), shards=3)
    found = one.inspect(path)
    assert found.gaps == ()
    assert "model/0_Transformer.lm_head.weight" in {tensor.name for tensor in found.tensors}
    (path / "0_Transformer" / "model-00002-of-00003.safetensors").unlink()
    assert inspected(path).reason == "0_Transformer/model-00002-of-00003.safetensors is missing"


def test_a_model_of_the_users_own_has_no_configuration(tmp_path):
    path = make_trainer(tmp_path).path
    for name in ("config.json", "generation_config.json"):
        (path / name).unlink()
    assert inspected(path).status is Status.COMPLETE


def test_the_directory_of_a_run_is_no_checkpoint_though_it_has_a_state(tmp_path):
    made = make_trainer(tmp_path)
    shutil.copy(made.path / STATE, tmp_path / STATE)
    assert layout(tmp_path) is None
    write_model(tmp_path, weights())
    assert layout(tmp_path) == "hugging-face"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", f"{STATE}: not JSON"),
        ('{\n  "global_step": 4,\n  "log_history": [\n  ]\n', f"{STATE}: not JSON"),
        ("[]", f"{STATE}: not a JSON object"),
        ('{"epoch": 1}', f"{STATE}: without a global_step"),
        ('{"global_step": "4"}', f"{STATE}: without a global_step"),
    ],
)
def test_a_state_that_no_trainer_wrote_is_wrong(tmp_path, text, reason):
    path = make_trainer(tmp_path).path
    (path / STATE).write_text(text)
    found = inspected(path)
    assert (found.status, found.reason) == (Status.CORRUPT, reason)
    assert one.verify(path).reason == reason


def test_a_state_that_is_damaged_within_is_found_by_reading_it(tmp_path):
    path = make_trainer(tmp_path).path
    text = (path / STATE).read_text()
    (path / STATE).write_text(text.replace('"grad_norm"', 'grad_norm"', 1))
    assert one.verify(path).reason == f"{STATE}: not JSON"


def test_a_state_of_another_step_than_the_name_says_is_wrong(tmp_path):
    path = make_trainer(tmp_path).path
    change(path, global_step=6)
    found = one.verify(path)
    assert found.status is Status.CORRUPT
    assert found.reason == f"{STATE} is of step 6, and the folder's name of step 4"
    assert one.verify(path.rename(tmp_path / "best")).status is Status.UNVERIFIABLE


@pytest.mark.parametrize("indent", [2, None, 4])
def test_the_metrics_are_those_of_its_step_however_the_file_is_indented(tmp_path, indent):
    path = make_trainer(tmp_path, step=4).path
    state = json.loads((path / STATE).read_text())
    rows = [
        {"step": 40, "loss": 9.0}, {"loss": 1.0, "note": "step", "step": 4},
        {"eval_loss": math.nan, "step": 4},
        {"nested": {"step": 4, "loss": 8.0}, "step": 3}, {"step": 4.0, "epoch": 2}, "no row",
    ]  # fmt: skip
    (path / STATE).write_text(json.dumps({**state, "log_history": rows}, indent=indent, sort_keys=True))
    metrics = dict(inspected(path).metrics)
    assert math.isnan(metrics.pop("eval_loss"))
    assert metrics == {"loss": 1.0, "epoch": 2}


def test_what_a_hostile_state_makes_long_is_cut(tmp_path):
    path = make_trainer(tmp_path, step=4).path
    change(path, global_step=10**4_000)
    (gap,) = one.inspect(path).gaps
    assert gap.startswith("trainer_state.json is of step 1000")
    assert len(gap) < 1_100


def test_what_is_not_logged_is_no_metric(tmp_path):
    path = make_trainer(tmp_path).path
    for history in ([], "none", None, [{"step": 3, "loss": 1.0}]):
        change(path, log_history=history)
        assert dict(inspected(path).metrics) == {}


def test_the_folder_of_the_best_model_is_still_needed(tmp_path):
    path = make_trainer(tmp_path).path
    entry = catalog.entry(path)
    assert entry is not None
    known = layouts.of(entry)
    assert known is not None
    for best, names in (
        ("out/checkpoint-2", {"checkpoint-2"}), ("/far/checkpoint-2/", {"checkpoint-2"}), (None, set()),
        ("", set()), (7, set()),
    ):  # fmt: skip
        change(path, best_model_checkpoint=best)
        with open_store(entry.place) as store:
            assert known.needs(store, entry) == names
    (path / STATE).unlink()
    entry = catalog.entry(path)
    assert entry is not None
    with open_store(entry.place) as store:
        assert known.needs(store, entry) is None


def test_a_folder_of_a_users_own_loop_with_an_optimizer_is_no_trainers(tmp_path):
    torch.save(optimizer_state(weights()), tmp_path / "optimizer.pt")
    torch.save(weights(), tmp_path / "net.pt")
    assert layout(tmp_path) is None


def test_weights_that_no_index_and_no_state_name_are_verified_too(tmp_path):
    path = make_trainer(tmp_path).path
    torch.save(weights(), path / "pytorch_model_fsdp.bin")  # FULL_STATE_DICT writes it beside the model
    data = (path / "pytorch_model_fsdp.bin").read_bytes()
    assert one.verify(path).status is Status.UNVERIFIABLE
    (path / "pytorch_model_fsdp.bin").write_bytes(data[:-40])
    assert one.verify(path).reason.startswith("pytorch_model_fsdp.bin: ")
    (path / "pytorch_model_fsdp.bin").unlink()
    save_file(weights(), path / "extra.safetensors")
    (path / "extra.safetensors").write_bytes(b"<html>")
    assert one.verify(path).reason == "extra.safetensors: it is a web page"
