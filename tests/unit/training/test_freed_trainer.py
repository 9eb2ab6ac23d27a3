"""A trainer leaves no reference cycles: its tensors are freed when it is dropped, with the collector off."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch

from marlin_ckpt import DefaultCheckpointer, DefaultCheckpointerArguments, Preempted
from tests.unit.training.test_exact_resume import StopsAt, trainer_in


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    torch.optim.SGD([torch.zeros(1)])  # the first one imports parts of torch, which leaves cycles
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _alive(trainer) -> list[weakref.ref]:
    momenta = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
    return [weakref.ref(one) for one in (trainer, trainer.module, *trainer.module.parameters(), *momenta)]


@pytest.mark.parametrize("async_save", [False, True])
def test_the_tensors_of_a_run_that_has_ended_are_freed_with_its_trainer(tmp_path, async_save):
    for epochs in (1, 2):  # the second one loads and goes on
        trainer = trainer_in(tmp_path, checkpointer={"async_save": async_save}, epochs=epochs)
        trainer.train()
        parts = _alive(trainer)
        assert len(parts) > 10
        del trainer
        assert [one() for one in parts if one() is not None] == []


def test_the_tensors_of_a_run_that_was_stopped_are_freed_with_its_trainer_and_the_exception(tmp_path):
    trainer = trainer_in(tmp_path, StopsAt(3))
    try:
        trainer.train()
    except Preempted as stopped:
        assert stopped.path  # noqa: PT017 - an ExceptionInfo would keep the frames
    parts = _alive(trainer)
    del trainer
    assert [one() for one in parts if one() is not None] == []


def test_a_checkpointer_that_outlives_its_trainer_keeps_nothing_of_it(tmp_path):
    arguments = DefaultCheckpointerArguments(save_dir=str(tmp_path), async_save=True)
    with DefaultCheckpointer(arguments) as checkpointer:
        trainer = trainer_in(tmp_path, epochs=1)
        trainer.checkpointer = checkpointer
        checkpointer.register(*trainer.optimizers)
        trainer.train()
        parts = _alive(trainer)
        del trainer
        assert [one() for one in parts if one() is not None] == []
