"""Saves while an optimizer is inside its step, on this thread or another, and threads that step meanwhile."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest
import torch
from torch.optim import optimizer as hooks

from marlin_ckpt import Checkpoint, StorageError
from marlin_ckpt.saving.copying import awaited, owners, staging
from tests.support.async_runs import Run, checkpointer

KINDS = {
    "fused": lambda of: torch.optim.SGD(of, lr=1.0, fused=True),
    "foreach": lambda of: torch.optim.SGD(of, lr=1.0, foreach=True),
    "single": lambda of: torch.optim.SGD(of, lr=1.0, foreach=False),
}


class Stepping:
    """Parameters that a step changes."""

    def __init__(self, kind):
        self.parameters = [torch.nn.Parameter(torch.zeros(1 << 18)) for _ in range(4)]
        self.optimizer = KINDS[kind](self.parameters)
        for one in self.parameters:
            one.grad = torch.ones_like(one)

    def checkpoint(self):
        return Checkpoint({"parameters": list(self.parameters)})


def values(path):
    tensors = torch.load(path)["module_interface_state"]["parameters"]
    return sorted({value for one in tensors for value in one.unique().tolist()})


@pytest.fixture
def late(monkeypatch):
    """Leaves all that may be copied late to whoever waits for it."""
    work = staging.Copying.work
    held = threading.Event()

    def only_the_owner(copying):
        if threading.current_thread().name == "marlin-ckpt save":
            assert held.wait(60)
        work(copying)

    monkeypatch.setattr(staging.Copying, "work", only_the_owner)
    yield held
    held.set()


@pytest.mark.parametrize("is_registered", [True, False, "inside"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_save_inside_a_closure_holds_what_was_there_when_it_was_asked_for(
    tmp_path, late, kind, is_registered
):
    one = Stepping(kind)
    with checkpointer(tmp_path) as own:
        if is_registered is True:
            own.register(one.optimizer)

        def closure():
            if is_registered == "inside":
                own.register(one.optimizer)
            own.save(one.checkpoint(), 0)
            return torch.tensor(1.0)

        one.optimizer.step(closure)
        late.set()
    assert values(tmp_path / "model_0.pt") == [0.0]


@pytest.mark.parametrize("when", ["before, of all", "before", "after", "after, of all"])
def test_a_save_in_a_hook_of_the_step_holds_what_was_there_when_it_was_asked_for(tmp_path, late, when):
    one, own, saved = Stepping("fused"), checkpointer(tmp_path), []

    def hook(*_):
        own.save(one.checkpoint(), 0)
        saved.append(values_now(one))

    register = {
        "before, of all": hooks.register_optimizer_step_pre_hook,
        "before": one.optimizer.register_step_pre_hook,
        "after": one.optimizer.register_step_post_hook,
        "after, of all": hooks.register_optimizer_step_post_hook,
    }
    handle = register[when](hook)
    try:
        one.optimizer.step()
    finally:
        handle.remove()
    late.set()
    own.close()
    assert values(tmp_path / "model_0.pt") == saved[0]


def test_an_optimizer_that_steps_inside_the_step_of_another_leaves_both_inside():
    outer, inner, found = Stepping("single"), Stepping("single"), []

    inner.optimizer.register_step_pre_hook(lambda *_: found.extend(owners.stepping()[threading.get_ident()]))
    outer.optimizer.register_step_pre_hook(lambda *_: inner.optimizer.step())
    outer.optimizer.step()
    assert found == [inner.optimizer, outer.optimizer]


def values_now(one):
    return sorted({value for tensor in one.parameters for value in tensor.unique().tolist()})


def test_after_a_step_that_raised_saves_overlap_again(tmp_path, late):
    one = Stepping("fused")
    with checkpointer(tmp_path) as own:
        own.register(one.optimizer)

        def closure():
            raise KeyError

        with pytest.raises(KeyError):
            one.optimizer.step(closure)
        own.save(one.checkpoint(), 0)
        with torch.no_grad():
            one.parameters[0].add_(1)
        late.set()
    assert os.listdir(tmp_path) == []  # the change was noticed, so that the copy came after it


def test_memory_that_an_array_or_another_process_has_too_is_copied_at_once(tmp_path, late):
    array = np.zeros(1000, dtype=np.float32)
    tensors = [torch.from_numpy(array), torch.zeros(1000).share_memory_()]
    optimizer = torch.optim.SGD([torch.nn.Parameter(one) for one in tensors], lr=1.0)
    with checkpointer(tmp_path) as own:
        own.register(optimizer)
        own.save(Checkpoint({"parameters": optimizer.param_groups[0]["params"]}), 0)
        array += 1
        tensors[1].numpy()[:] = 1
        late.set()
    assert values(tmp_path / "model_0.pt") == [0.0]


@pytest.fixture
def inside():
    """Another thread that is inside the step of an optimizer, until it is let go on."""
    one, begun, goes_on = Stepping("fused"), threading.Event(), threading.Event()

    def wait(*_):
        begun.set()
        assert goes_on.wait(60)

    one.optimizer.register_step_pre_hook(wait)
    thread = threading.Thread(target=one.optimizer.step)
    thread.start()
    assert begun.wait(60)
    yield one, goes_on
    goes_on.set()
    thread.join()


def test_while_another_thread_is_inside_its_step_its_tensors_are_not_saved(tmp_path, inside, monkeypatch):
    monkeypatch.setattr(awaited, "_PATIENCE_S", 0.0)
    one, _ = inside
    with checkpointer(tmp_path) as own:
        own.register(one.optimizer)
        with pytest.raises(StorageError, match="another thread is inside the step") as caught:
            own.save(one.checkpoint(), 0)
        assert (caught.value.errno, caught.value.where) == (errno.EBUSY, str(tmp_path / "model_0.pt"))
        own.save(Checkpoint({"parameters": [torch.zeros(3)]}), 1)
    assert os.listdir(tmp_path) == ["model_1.pt"]


def test_a_save_waits_for_the_end_of_another_threads_step(tmp_path, inside, monkeypatch):
    one, goes_on = inside
    looks = awaited.stepping

    def look():
        goes_on.set()
        return looks()

    with checkpointer(tmp_path) as own:
        own.register(one.optimizer)
        monkeypatch.setattr(awaited, "stepping", look)
        own.save(one.checkpoint(), 0)
    assert values(tmp_path / "model_0.pt") == [-1.0]


def test_threads_that_step_while_a_state_is_copied_end_without_an_error(tmp_path, cases):
    runs, errors = [Run() for _ in range(4)], []
    wanted = {}
    with checkpointer(tmp_path) as own:

        def steps(run):
            try:
                for _ in range(30):
                    run.step()
            except BaseException as error:  # noqa: BLE001 - compared below
                errors.append(error)

        own.register(runs[0].optimizer)
        for index in range(cases(10, 100)):
            threads = [threading.Thread(target=steps, args=(run,)) for run in runs[1:]]
            runs[0].step()
            for one in threads:
                one.start()
            wanted[index] = [one.detach().clone() for one in runs[0].module.parameters()]
            own.save(runs[0].checkpoint(), index)
            for one in threads:
                one.join()
        assert errors == []
    for index, tensors in wanted.items():
        found = torch.load(tmp_path / f"model_{index}.pt")["module_interface_state"]
        assert all(torch.equal(found[name], one) for (name, _), one in zip(
            runs[0].module.named_parameters(), tensors, strict=True))  # fmt: skip


def test_a_thread_that_closes_takes_no_hook_from_one_that_is_among_them(tmp_path):
    run, own, among, closed = Run(), checkpointer(tmp_path), threading.Event(), threading.Event()
    own.register(run.optimizer)

    def waits(*_):
        among.set()
        assert closed.wait(60)

    handle, errors = hooks.register_optimizer_step_pre_hook(waits), []
    run.forward()

    def step():
        try:
            run.optimizer.step()
        except BaseException as error:  # noqa: BLE001 - compared below
            errors.append(error)

    thread = threading.Thread(target=step)
    thread.start()
    assert among.wait(60)
    own.close()
    closed.set()
    thread.join()
    handle.remove()
    assert errors == []
