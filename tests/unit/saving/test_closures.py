"""Steps that are given a closure: Lightning computes the whole forward and backward pass in one."""

from __future__ import annotations

import inspect
import threading

import pytest
import torch

from marlin_ckpt import Saver
from marlin_ckpt.saving.copying import owners, staging

ALL = sorted(
    name
    for name, one in vars(torch.optim).items()
    if inspect.isclass(one) and issubclass(one, torch.optim.Optimizer) and one is not torch.optim.Optimizer
)


def one_of(name):
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.ones(4, 4).to_sparse() if name == "SparseAdam" else torch.ones(4, 4)
    return weight, vars(torch.optim)[name]([weight], lr=0.1)


@pytest.mark.parametrize("name", ALL)
def test_every_optimizer_of_torch_evaluates_its_closure_before_it_changes_anything(name):
    weight, optimizer = one_of(name)
    optimizer.step(lambda: torch.tensor(1.0))  # its state is there from now on
    seen = []

    def closure():
        tensors = owners.held_by(optimizer)
        seen.append([tensor.clone() for tensor in tensors])
        return torch.tensor(1.0)

    before = [tensor.clone() for tensor in owners.held_by(optimizer)]
    optimizer.step(closure)
    assert all(torch.equal(one, other) for one, other in zip(before, seen[0], strict=True))
    assert not torch.equal(before[0], weight)  # so that a change would have been seen
    assert type(optimizer).step.__module__.startswith("torch.optim.")


@pytest.fixture
def copied(monkeypatch):
    """Lets nobody copy behind the loop before the closure has been evaluated."""
    evaluated, late = threading.Event(), []
    work, before_change = staging.Copying.work, owners._before_change

    def waits(copying):
        if threading.current_thread().name == "marlin-ckpt save":
            assert evaluated.wait(60)
        work(copying)

    def looks():
        late.append(evaluated.is_set())
        evaluated.set()
        before_change()

    monkeypatch.setattr(staging.Copying, "work", waits)
    monkeypatch.setattr(owners, "_before_change", looks)
    return evaluated, late


@pytest.mark.parametrize("how", ["positional", "keyword"])
def test_a_step_waits_for_the_copy_when_its_closure_has_been_evaluated(tmp_path, copied, how):
    evaluated, late = copied
    weight = torch.nn.Parameter(torch.ones(1 << 16))
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def closure():
        weight.grad = torch.ones_like(weight)
        evaluated.set()
        return torch.tensor(1.0)

    with Saver() as saver:
        saver.register(optimizer)
        saver.save({"weight": weight}, tmp_path / "one.pt")
        loss = optimizer.step(closure) if how == "positional" else optimizer.step(closure=closure)
    assert (late, float(loss)) == ([True], 1.0)
    assert float(weight.detach().sum()) == 0
    assert float(torch.load(tmp_path / "one.pt")["weight"].detach().sum()) == 1 << 16


class Perturbing(torch.optim.SGD):
    """As SAM: it moves the parameters, evaluates the closure there, and moves them back."""

    def step(self, closure):
        with torch.no_grad():
            for weight in self.param_groups[0]["params"]:
                weight.add_(1)
        return closure()


def test_a_step_of_others_waits_before_its_closure(tmp_path, copied):
    _, late = copied
    weight = torch.nn.Parameter(torch.ones(1 << 16))
    optimizer = Perturbing([weight], lr=1.0)
    with Saver() as saver:
        saver.register(optimizer)
        saver.save({"weight": weight}, tmp_path / "one.pt")
        optimizer.step(lambda: torch.tensor(1.0))
    assert late == [False]
    assert float(torch.load(tmp_path / "one.pt")["weight"].detach().sum()) == 1 << 16
