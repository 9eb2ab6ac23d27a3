"""A run that goes on under other conditions, or from a state that does not fit, says so."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from marlin_ckpt import (
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    Preempted,
    StateMismatchError,
)
from marlin_ckpt.training.resume.leaves import how_different, leaves
from tests.support.proven_modules import Careful
from tests.support.stopped_runs import StopsAt, trainer_in


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_batch_size": 4}, "train_batch_size was 8 and is 4"),
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"max_grad_norm": 2.0}, "max_grad_norm was 1.0 and is 2.0"),
    ],
)
def test_a_resume_under_other_conditions_is_announced_and_refused_when_it_must_be_exact(
    tmp_path, caplog, changes, says
):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4)).train()
    with pytest.raises(StateMismatchError, match=says) as caught:
        trainer_in(tmp_path, exact=True, **changes)
    assert "this resume will not be exact because" in str(caught.value)
    trainer_in(tmp_path, **changes)
    assert f"This resume will not be exact because {says}" in caplog.text


def test_other_data_and_another_torch_are_other_conditions(tmp_path, caplog, monkeypatch):
    class Fingerprinted(Careful):
        data_fingerprint = lambda self: self.told  # noqa: E731
        told = "one"

    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4), Fingerprinted).train()
    monkeypatch.setattr(Fingerprinted, "told", "two")
    monkeypatch.setattr(torch, "__version__", "9.9")
    trainer_in(tmp_path, module=Fingerprinted)
    assert "torch was 2" in caplog.text
    assert "and is 9.9; data_fingerprint was one and is two." in caplog.text


def test_an_optimizers_changed_rate_is_announced_since_the_saved_one_counts(tmp_path, caplog):
    class Faster(Careful):
        def get_optimizers_schedulers(self, steps, epochs):
            optimizers, schedulers = super().get_optimizers_schedulers(steps, epochs)
            optimizers[0].param_groups[0]["weight_decay"] = 0.5
            return optimizers, schedulers

    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4)).train()
    trainer = trainer_in(tmp_path, module=Faster)
    stays = "weight_decay stays 0.01, as saved, and the module's 0.5 is not used"
    assert f"because optimizers[0].param_groups[0].{stays}." in caplog.text
    assert "is 0.5" not in caplog.text.replace(stays, "")
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.01


def test_a_checkpoint_without_random_numbers_resumes_with_a_word(tmp_path, caplog):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(6)).train()
    loaded = DefaultCheckpointer(DefaultCheckpointerArguments(load_dir=str(tmp_path))).load()
    del loaded.trainer_state["position"]
    DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(tmp_path))).save(loaded, 5)
    assert trainer_in(tmp_path).global_steps_finished == 6
    assert "This resume will not be exact because the checkpoint holds no random numbers." in caplog.text


class Paired(Careful):
    """Has two layers of one shape, so that their moments would fit each other."""

    reverses = False

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(5, 5), torch.nn.Linear(5, 5)

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        layers = [self.first, self.second, self.layers]
        parameters = [one for layer in layers for one in layer.parameters()]
        if self.reverses:
            parameters[:4] = parameters[2:4] + parameters[:2]
        return [torch.optim.AdamW(parameters, lr=0.01)], []

    def train_step(self, global_step, batch, device):
        inputs, targets = batch
        return super().train_step(global_step, (self.second(self.first(inputs)), targets), device)


class PairedWithAStateOfItsOwn(Paired):
    def get_state(self):
        return {"layers": self.state_dict()}

    def update_state(self, state):
        if state:
            self.load_state_dict(state["layers"])


@pytest.mark.parametrize("module", [Paired, PairedWithAStateOfItsOwn])
@pytest.mark.parametrize("stop", [4, 6])
def test_an_optimizer_of_the_same_parameters_in_another_order_is_refused_before_the_first_step(
    tmp_path, monkeypatch, module, stop
):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(stop), module).train()
    trainer_in(tmp_path, None, module, exact=True)
    monkeypatch.setattr(Paired, "reverses", True)
    with pytest.raises(StateMismatchError, match=r"optimizers\[0\] has its parameters in another") as caught:
        trainer_in(tmp_path, None, module)
    assert "number 0 is first.weight there, second.weight here" in str(caught.value)
    assert "trainer.reset_optimizers_schedulers: true makes new optimizers" in caught.value.hint
    trainer_in(tmp_path, None, module, reset_optimizers_schedulers=True).train()


def test_optimizers_that_have_changed_places_are_refused_before_the_first_step(tmp_path, monkeypatch):
    class OneEach(Paired):
        def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
            optimizers = [torch.optim.AdamW(one.parameters(), lr=0.01) for one in (self.first, self.second)]
            return optimizers[::-1] if self.reverses else optimizers, []

    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(6), OneEach).train()
    trainer_in(tmp_path, None, OneEach, exact=True)
    monkeypatch.setattr(Paired, "reverses", True)
    says = "the optimizers have each other's parameters in the file: number 0 is first.weight there, second"
    with pytest.raises(StateMismatchError, match=says):
        trainer_in(tmp_path, None, OneEach)


def test_a_checkpoint_that_does_not_name_the_parameters_of_optimizers_is_loaded_as_ever(
    tmp_path, monkeypatch
):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(6), Paired).train()
    loaded = DefaultCheckpointer(DefaultCheckpointerArguments(load_dir=str(tmp_path))).load()
    del loaded.trainer_state["conditions"]["optimizer_parameters"]
    DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(tmp_path))).save(loaded, 5)
    monkeypatch.setattr(Paired, "reverses", True)
    assert trainer_in(tmp_path, None, Paired).global_steps_finished == 6


def test_an_optimizer_that_sorts_its_state_by_itself_may_have_another_order(tmp_path, monkeypatch):
    class Sorting(Paired):
        def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
            optimizers, _ = super().get_optimizers_schedulers(estimated_global_steps_per_epoch, epochs)
            optimizers[0].register_load_state_dict_pre_hook(lambda optimizer, state: None)
            return optimizers, []

    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(6), Paired).train()
    monkeypatch.setattr(Paired, "reverses", True)
    assert trainer_in(tmp_path, None, Sorting).global_steps_finished == 6


def wider(state):
    state["optimizers"][0]["state"][0]["exp_avg"] = torch.zeros(3, 3)
    state["optimizers"][0]["state"][1]["exp_avg_sq"] = torch.zeros(1)


def another_schedule(state):
    state["schedulers"][0]["gamma"] = state["schedulers"][0].pop("T_max")


def one_more_optimizer(state):
    state["optimizers"].append(state["optimizers"][0])


def incomplete(state):
    del state["schedulers"], state["optimizers"]


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        (
            wider,
            (
                "optimizers[0].state[0].exp_avg is (3, 3) in the file, (16, 5) here",
                "optimizers[0].state[1].exp_avg_sq is (1,) in the file, (16,) here",
            ),
        ),
        (
            another_schedule,
            (
                "schedulers[0] lacks T_max of CosineAnnealingLR",
                "schedulers[0] has gamma, CosineAnnealingLR has not",
            ),
        ),
        (one_more_optimizer, ("the checkpoint holds 2 optimizers, the module makes 1",)),
        (incomplete, ("optimizers is missing", "schedulers is missing")),
    ],
)
def test_a_state_that_does_not_fit_lists_all_that_differs_and_nothing_of_it_is_taken_over(
    tmp_path, change, differences
):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4)).train()
    state = DefaultCheckpointer(DefaultCheckpointerArguments(load_dir=str(tmp_path))).load().trainer_state
    trainer = trainer_in(tmp_path / "new")
    before = dict(leaves(trainer.get_state()))
    change(state)
    with pytest.raises(StateMismatchError) as caught:
        trainer.update_state(state)
    assert caught.value.differences == differences
    after = dict(leaves(trainer.get_state()))
    assert {key for key in before if how_different(before[key], after[key])} == set()


@pytest.mark.parametrize("exact", [False, True])
def test_where_the_trainers_state_does_not_fit_the_module_is_left_as_it_was(tmp_path, exact):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4)).train()

    class Other(Careful):
        def get_optimizers_schedulers(self, steps, epochs):
            if exact:  # fits, but is not the same run
                optimizers, schedulers = super().get_optimizers_schedulers(steps, epochs)
                optimizers[0].param_groups[0]["weight_decay"] = 0.5
                return optimizers, schedulers
            return [torch.optim.SGD(self.parameters()), torch.optim.SGD(self.parameters())], []

    module = Other()
    before = {name: one.clone() for name, one in module.state_dict().items()}
    with pytest.raises(StateMismatchError, match="weight_decay" if exact else "the module makes 2"):
        trainer_in(tmp_path, module=lambda: module, exact=exact)
    assert all(torch.equal(one, before[name]) for name, one in module.state_dict().items())


@pytest.mark.parametrize("keeps", [True, False])
def test_a_run_that_goes_on_says_when_its_loader_keeps_its_workers_over_epochs(tmp_path, caplog, keeps):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(4)).train()

    class Persistent(Careful):
        def get_train_dataloader(self, sampler, batch_size):
            options = {"num_workers": 1, "persistent_workers": keeps}
            return DataLoader(self.data, batch_size, sampler=sampler(self.data), **options)

    if keeps:
        with pytest.raises(StateMismatchError, match="persistent_workers"):
            trainer_in(tmp_path, module=Persistent, exact=True).train()
    trainer_in(tmp_path, module=Persistent).train()
    assert ("workers draw at random cannot be restored" in caplog.text) is keeps
    assert caplog.text.count("persistent_workers") == keeps
    assert "train_loader.workers was none and is some" in caplog.text
