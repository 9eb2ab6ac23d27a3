"""The Trainer of Transformers with our checkpoints: what it saves, resumes from, keeps and refuses."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainerCallback

from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.integrations.transformers import MarlinCheckpoints, protect
from marlin_ckpt.integrations.transformers_private import PRIVATE
from marlin_ckpt.operations.folders import numbered
from tests.support.checkpoint_directories import listed
from tests.support.trainer_runs import Net, Rows, arguments, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
BEST = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss", "greater_is_better": True}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folders of an undisturbed run, one for each of its six steps; the last has the final weights."""
    directory = tmp_path_factory.mktemp("whole")
    trainer(str(directory), save_total_limit=None).train()
    return directory


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy of them, which a test may damage."""
    os.system(f"cp -r {whole} {tmp_path}/run")
    return tmp_path / "run"


def names_in(directory: Path) -> list[str]:
    return [name for name in listed(directory) if name != "runs"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert {name: one.tolist() for name, one in left.items()} == {
        name: one.tolist() for name, one in right.items()
    }


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def verdict(folder: Path) -> Status:
    return verification.verify(catalog.entry(folder)).status


def test_what_is_overridden_has_in_this_release_of_transformers_the_parameters_that_it_had():
    found = {name: tuple(inspect.signature(getattr(Trainer, name)).parameters) for name in PRIVATE}
    assert found == PRIVATE
    assert next(iter([*inspect.signature(Trainer.train).parameters][1:])) == "resume_from_checkpoint"
    own = {name for name, one in vars(MarlinCheckpoints).items() if callable(one)}
    assert own & {*dir(Trainer)} - {"train", "push_to_hub"} == {*PRIVATE}
    # The order in which a checkpoint is written, and by which paths.
    source = inspect.getsource(Trainer._save_checkpoint)
    steps = [
        "run_dir = self._get_output_dir(trial=trial)",
        'f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"',
        "self.save_model(output_dir, _internal_call=True)",
        "self._save_optimizer_and_scheduler(output_dir)",
        "self.state.save_to_json(os.path.join(output_dir, TRAINER_STATE_NAME))",
        "self._push_from_checkpoint(output_dir)",
        "output_dir=run_dir,",
    ]
    assert [one for one in steps if one not in source] == []


def test_each_folder_is_intact_and_its_manifest_has_the_step_and_what_was_logged(whole):
    assert names_in(whole) == [f"checkpoint-{step}" for step in range(1, 7)]
    manifests = [numbered.manifest(str(whole / f"checkpoint-{step}")) for step in range(1, 7)]
    assert {verdict(one) for one in whole.glob("checkpoint-*")} == {Status.INTACT}
    assert [one.index for one in manifests] == [one.save_number for one in manifests] == [*range(1, 7)]
    assert len({one.run_id for one in manifests}) == 1
    logged = {
        row["step"]: row["loss"]
        for row in json.loads((whole / "checkpoint-6/trainer_state.json").read_text())["log_history"]
    }
    assert [one.metrics["loss"] for one in manifests] == [logged[step] for step in range(1, 7)]
    assert {row["name"] for row in manifests[0].records} == {
        "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json",
        "training_args.bin",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_a_run_that_is_resumed_ends_with_the_weights_of_one_that_was_not_stopped(run, whole, kind):
    for step in (5, 6):
        os.system(f"rm -r {run}/checkpoint-{step}")
    one = trainer(str(run), kind, save_total_limit=None)
    one.train(resume_from_checkpoint=True)
    assert_same(one.model.state_dict(), weights(whole / "checkpoint-6"))
    if kind == "ours":
        first, last = (numbered.manifest(str(run / f"checkpoint-{step}")) for step in (1, 6))
        assert (last.run_id, last.save_number, last.parent.name) == (first.run_id, 6, "checkpoint-4")


def test_damaged_folders_are_passed_over_with_the_reason_and_saved_anew(run, whole, caplog):
    flip(run / "checkpoint-6" / "model.safetensors")  # which has no checksums of its own
    (run / "checkpoint-5" / "scheduler.pt").unlink()
    one = trainer(str(run), save_total_limit=None)
    one.train(resume_from_checkpoint=True)
    assert_same(one.model.state_dict(), weights(whole / "checkpoint-6"))
    passed_over = [one.getMessage() for one in caplog.records if one.name.startswith("marlin_ckpt")]
    assert passed_over == [
        f"Passed over {run}/checkpoint-6: corrupt: the CRC of model.safetensors does not hold",
        f"Passed over {run}/checkpoint-5: incomplete: scheduler.pt is missing",
    ]
    assert {verdict(folder) for folder in run.glob("checkpoint-*")} == {Status.INTACT}


def test_a_damaged_folder_that_is_named_is_refused_and_the_hint_names_the_newest_intact_one(run):
    flip(run / "checkpoint-3" / "optimizer.pt")
    with pytest.raises(CorruptCheckpointError, match=r"the CRC of optimizer\.pt does not hold") as caught:
        trainer(str(run)).train(str(run / "checkpoint-3"))
    assert f"{run}/checkpoint-6" in caught.value.hint
    one = trainer(str(run))
    one.train(run / "checkpoint-4")
    assert one.state.global_step == 6


def test_where_there_is_no_folder_transformers_says_so_and_where_none_is_intact_we_do(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="No valid checkpoint found in output directory"):
        trainer(str(tmp_path / "empty")).train(resume_from_checkpoint=True)
    for folder in run.glob("checkpoint-*"):
        flip(folder / "optimizer.pt")
    with pytest.raises(CorruptCheckpointError, match=r"none of \d checkpoints is intact"):
        trainer(str(run)).train(resume_from_checkpoint=True)


def test_folders_that_the_stock_trainer_wrote_are_taken_where_they_are_complete(tmp_path, caplog, whole):
    trainer(str(tmp_path), "stock", save_total_limit=None).train()
    (tmp_path / "checkpoint-6" / "trainer_state.json").unlink()
    flip(tmp_path / "checkpoint-5" / "optimizer.pt")
    one = trainer(str(tmp_path))
    one.train(resume_from_checkpoint=True)
    assert_same(one.model.state_dict(), weights(whole / "checkpoint-6"))
    assert "checkpoint-6: incomplete: without trainer_state.json" in caplog.text
    assert "checkpoint-5: corrupt: optimizer.pt: " in caplog.text
    assert f"Nothing proves that {tmp_path}/checkpoint-4 is intact" in caplog.text
    assert names_in(tmp_path) == ["checkpoint-5", "checkpoint-6"]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_best_folder_and_the_newest_ones_stay(tmp_path, limit):
    one = trainer(str(tmp_path), save_total_limit=limit, load_best_model_at_end=True, **BEST)  # at step 1
    one.train()
    newest = [f"checkpoint-{step}" for step in range(8 - max(limit, 2), 7)]
    assert names_in(tmp_path) == ["checkpoint-1", *(newest if limit > 1 else [])]
    for name in names_in(tmp_path):
        state = json.loads((tmp_path / name / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-1")
        assert verdict(tmp_path / name) is Status.INTACT
    assert_same(one.model.state_dict(), weights(tmp_path / "checkpoint-1"))


def test_the_best_folder_has_its_own_path_where_its_step_is_saved_twice(tmp_path):
    one = trainer(str(tmp_path), load_best_model_at_end=True, **{**BEST, "greater_is_better": False})
    one.train()  # each step is better than the one before, so that the last one is the best
    one._save_checkpoint(one.model, trial=None)  # as Transformers does at SIGTERM, after the step's own save
    last = tmp_path / "checkpoint-6"
    state = json.loads((last / "trainer_state.json").read_text())
    assert state["best_global_step"] == 6
    assert one.state.best_model_checkpoint == state["best_model_checkpoint"] == str(last)
    assert verdict(last) is Status.INTACT


class AtStep(TrainerCallback):
    """Does something after the save of a step."""

    def __init__(self, step: int, do) -> None:
        self.step, self.do = step, do

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.do()


def test_a_best_model_that_has_been_damaged_since_is_not_loaded_at_the_end(tmp_path):
    one = trainer(str(tmp_path), load_best_model_at_end=True, **BEST)
    one.add_callback(AtStep(4, lambda: flip(tmp_path / "checkpoint-1" / "model.safetensors")))
    with pytest.raises(CorruptCheckpointError, match=r"the CRC of model\.safetensors does not hold"):
        one.train()


def test_of_a_save_that_fails_nothing_is_left_and_the_folders_before_it_stand(tmp_path, monkeypatch):
    save = torch.save

    def full(obj, path, *args, **kwargs):
        if "checkpoint-3" in str(path) and "scheduler" in str(path):
            raise OSError(28, "No space left on device")
        save(obj, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    one = trainer(str(tmp_path), save_total_limit=1, **(BEST | {"greater_is_better": False}))
    with pytest.raises(OSError, match="No space left"):
        one.train()
    assert names_in(tmp_path) == ["checkpoint-2"]
    assert one.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    monkeypatch.undo()
    one = trainer(str(tmp_path))
    one.train(resume_from_checkpoint=True)
    assert one.state.global_step == 6


class WithANote(Trainer):
    """Writes a file of its own into each checkpoint, as subclasses do."""

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        folder = os.path.join(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
        Path(folder, "note.txt").write_text("mine")


def test_the_files_of_a_subclass_are_part_of_the_folder(tmp_path):
    one = protect(WithANote(Net(), arguments(str(tmp_path)), train_dataset=Rows()))
    assert protect(one) is one
    assert (type(one).__name__, isinstance(one, WithANote)) == ("WithANote", True)
    one.train()
    found = numbered.manifest(str(tmp_path / "checkpoint-6"))
    assert "note.txt" in {row["name"] for row in found.records}


def test_what_is_pushed_to_the_hub_is_the_folder_that_is_durable(tmp_path):
    pushed = []

    class Pushing(Trainer):
        def _push_from_checkpoint(self, checkpoint_folder):
            pushed.append((checkpoint_folder, verdict(Path(checkpoint_folder))))

    one = protect(Pushing(Net(), arguments(str(tmp_path), save_steps=3), train_dataset=Rows()))
    one.args.push_to_hub = True
    one.train()
    assert pushed == [(str(tmp_path / f"checkpoint-{step}"), Status.INTACT) for step in (3, 6)]


def test_a_run_without_optimizers_in_its_folders_resumes_from_them(tmp_path, caplog):
    trainer(str(tmp_path), save_only_model=True).train()
    assert not (tmp_path / "checkpoint-6" / "optimizer.pt").exists()
    one = trainer(str(tmp_path), save_only_model=True, max_steps=7)
    one.train(resume_from_checkpoint=True)
    assert names_in(tmp_path) == ["checkpoint-6", "checkpoint-7"]
    with pytest.raises(CorruptCheckpointError):  # where the run asks for its optimizer
        trainer(str(tmp_path)).train(resume_from_checkpoint=True)
    trainer(str(tmp_path), max_steps=8).train(str(tmp_path / "checkpoint-7"))
    assert "Only the model is in" in caplog.text


@pytest.mark.parametrize(
    ("strategy", "saved"),
    [
        ({"save_strategy": "epoch"}, [3, 6]),
        ({"save_strategy": "best", **BEST, "save_total_limit": None}, [1]),
    ],
)
def test_each_strategy_of_saving_is_kept(tmp_path, strategy, saved):
    trainer(str(tmp_path), **strategy).train()
    assert names_in(tmp_path) == [f"checkpoint-{step}" for step in saved]


def test_the_mixin_stands_before_the_class_of_another_trainer(tmp_path):
    class Mine(MarlinCheckpoints, Seq2SeqTrainer):
        pass

    args = arguments(str(tmp_path)).to_dict() | {"report_to": []}
    options = {name: args[name] for name in ("output_dir", "max_steps", "save_steps", "use_cpu", "report_to")}
    one = Mine(Net(), Seq2SeqTrainingArguments(**options), train_dataset=Rows())
    one.train()
    assert verdict(tmp_path / "checkpoint-6") is Status.INTACT


@pytest.mark.parametrize("name", ["is_deepspeed_enabled", "is_fsdp_enabled"])
def test_with_deepspeed_and_fsdp_all_is_left_to_transformers_with_a_warning(tmp_path, name, caplog):
    one = trainer(str(tmp_path))
    setattr(one, name, True)
    assert not one._is_covered()
    assert not one._is_covered()
    assert caplog.text.count("checkpoints are left to Transformers") == 1
