"""A module ends its run early by `should_stop`: the run is saved whole, and goes on when it is resumed."""

import logging

import pytest
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments, Preempted, Trainer
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from tests.support.proven_modules import Careful
from tests.support.stopped_runs import StopsAt, assert_same, trainer_in

HOOKS = [
    "on_begin_train_epoch",
    "on_end_backward",
    "on_end_train_step",
    "on_end_val_epoch",
    "on_end_train_epoch",
]


class Stopping(Careful):
    """Sets `should_stop` in one of its hooks, in its second epoch; notes when the run has ended."""

    hook, step = "on_end_val_epoch", 6
    ended_at = -1

    def _called(self, name, global_step):
        if name == self.hook and global_step >= self.step:
            self.should_stop = True

    def on_begin_train_epoch(self, global_step, epoch):
        self._called("on_begin_train_epoch", global_step)

    def on_end_backward(self, global_step, loss):
        self._called("on_end_backward", global_step)

    def on_end_train_step(self, global_step, *outputs):
        self._called("on_end_train_step", global_step - 1)

    def on_end_val_epoch(self, global_step, *outputs, key="default"):
        super().on_end_val_epoch(global_step, *outputs, key=key)
        self._called("on_end_val_epoch", global_step - 1)

    def on_end_train_epoch(self, global_step, *outputs):
        self._called("on_end_train_epoch", global_step - 1)

    def on_end_train(self, global_step):
        self.ended_at = global_step


def saving_models(directory, module, **fields) -> Trainer:
    places = {"save_dir": str(directory), "load_dir": str(directory), "model_state_save_dir": str(directory)}
    given = trainer_in(directory, None, module, **fields)
    given.checkpointer.args.model_state_save_dir = places["model_state_save_dir"]
    return given


def names(directory) -> set[str]:
    return {one.name for one in directory.iterdir() if one.is_file()}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_run_ends_after_the_epoch_in_which_a_hook_asks_for_it_and_is_saved(tmp_path, caplog, hook):
    caplog.set_level(logging.INFO)
    trainer = saving_models(tmp_path, Stopping)
    trainer.module.hook = hook
    trainer.train()
    assert (trainer.last_epoch, trainer.global_steps_finished, trainer.module.ended_at) == (1, 12, 12)
    assert names(tmp_path) == {"model_0.pt", "model_1.pt", "model_model_1.pt"}
    assert "The run ends after 2 of 3 epochs: the module has set should_stop." in caplog.text


def test_a_run_that_has_ended_early_goes_on_when_it_is_resumed_as_if_it_had_not(tmp_path):
    trainer_in(tmp_path / "stopped", None, Stopping).train()
    resumed = trainer_in(tmp_path / "stopped", None, Careful, exact=True)
    assert not resumed.module.should_stop
    resumed.train()
    straight = trainer_in(tmp_path / "straight", None, Careful)
    straight.train()
    assert resumed.last_epoch == 2
    assert_same(resumed, straight)


def test_a_resumed_run_whose_module_says_so_again_ends_at_once_and_saves_no_checkpoint_anew(tmp_path, caplog):
    class Patient(Stopping):
        def update_state(self, state):
            super().update_state(state)
            self.should_stop = state is not None

    trainer_in(tmp_path, None, Stopping).train()
    caplog.set_level(logging.INFO)
    observer = StopsAt()
    resumed = trainer_in(tmp_path, observer, Patient)
    resumed.train()
    assert (resumed.last_epoch, resumed.module.ended_at, observer.saved) == (1, 12, [])
    assert "after 2 of 3 epochs" in caplog.text


def test_the_same_trainer_goes_on_once_its_module_asks_no_more(tmp_path):
    trainer = trainer_in(tmp_path, None, Stopping)
    trainer.train()
    trainer.train()
    assert trainer.last_epoch == 1
    trainer.module.should_stop = False
    trainer.train()
    assert trainer.last_epoch == 2


def test_a_run_that_has_asked_for_its_end_and_is_then_stopped_by_a_signal_ends_after_the_same_epoch(tmp_path):
    def stopping_at_once():
        module = Stopping()
        module.hook = "on_end_train_step"
        return module

    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(9), stopping_at_once).train()
    resumed = trainer_in(tmp_path, None, Careful, exact=True)  # which does not ask by itself
    resumed.train()
    assert (resumed.last_epoch, resumed.global_steps_finished) == (1, 12)


def test_by_step_the_end_of_the_last_epoch_is_saved_whatever_the_period(tmp_path):
    trainer_in(tmp_path, None, Stopping, index_by="step", checkpointer={"period": 5}).train()
    assert names(tmp_path) == {"model_5.pt", "model_10.pt", "model_12.pt"}
    resumed = trainer_in(tmp_path, None, Careful, index_by="step", exact=True)
    assert (resumed.last_epoch, resumed.global_steps_finished) == (1, 12)


@pytest.mark.parametrize("index_by", ["epoch", "step"])
def test_a_checkpoint_saved_in_the_hook_that_asks_for_the_end_is_one_within_the_epoch(tmp_path, index_by):
    class Saving(Stopping):
        trainer: Trainer
        path = None

        def on_end_val_epoch(self, global_step, *outputs, key="default"):
            super().on_end_val_epoch(global_step, *outputs, key=key)
            if self.should_stop:
                self.path = self.trainer.save_checkpoint(force=True)
                saved = DefaultCheckpointer(DefaultCheckpointerArguments(resume_from=self.path)).load()
                self.saved_epoch = saved.trainer_state["last_epoch"]

    trainer = trainer_in(tmp_path, None, Saving, index_by=index_by)
    trainer.module.trainer = trainer
    trainer.train()
    assert (trainer.last_epoch, trainer.module.saved_epoch) == (1, 0)
    last = DefaultCheckpointer(DefaultCheckpointerArguments(resume_from=trainer.module.path)).load()
    assert last.trainer_state["last_epoch"] == 1
    assert "epoch" not in last.trainer_state["position"]


def test_a_module_may_save_by_a_checkpointer_of_its_own_where_it_asks_for_the_end(tmp_path):
    class KeepingItsBest(Stopping):
        def __init__(self):
            super().__init__()
            self.best: AbstractCheckpointer = DefaultCheckpointer(
                DefaultCheckpointerArguments(save_dir=str(tmp_path / "best"))
            )

        def on_end_val_epoch(self, global_step, *outputs, key="default"):
            super().on_end_val_epoch(global_step, *outputs, key=key)
            self.best.save(Checkpoint(self.get_state()), global_step, force=True)

    trainer_in(tmp_path / "run", None, KeepingItsBest).train()
    assert names(tmp_path / "best") == {"model_6.pt", "model_12.pt"}
    assert names(tmp_path / "run") == {"model_0.pt", "model_1.pt"}


@pytest.mark.parametrize("wish", [torch.tensor(True), 1])
def test_whatever_is_true_ends_the_run(tmp_path, wish):
    trainer = trainer_in(tmp_path, None, Careful)
    trainer.module.should_stop = wish
    trainer.train()
    assert trainer.last_epoch == -1


def test_a_property_may_say_it_and_follows_from_the_state_after_a_resume(tmp_path):
    class Losing(Careful):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        @property
        def should_stop(self):
            return bool(self.count >= 8)

        def on_end_train_step(self, global_step, *outputs):
            self.count += 1

    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(9), Losing).train()
    resumed = trainer_in(tmp_path, None, Losing, exact=True)
    resumed.train()
    assert resumed.last_epoch == 1


def test_a_method_of_the_modules_own_by_that_name_ends_nothing(tmp_path):
    class Own(Careful):
        def should_stop(self):  # type: ignore[override]
            return True

    trainer = trainer_in(tmp_path, None, Own)
    trainer.train()
    assert trainer.last_epoch == 2
