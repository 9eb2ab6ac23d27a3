"""The oracle can fail: it finds out writers that lose something, and tells apart what is nearly the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.descriptions import describe
from tests.support.oracle import differences, on_the_cpu, write

pytestmark = pytest.mark.filterwarnings("ignore")


def _each_tensor(change: Callable[[torch.Tensor], Any]) -> Callable[[str, Any], tuple[str, ...]]:
    return lambda path, state: write(path, [change(part) for part in state])


SABOTEURS: dict[str, Callable[[str, Any], tuple[str, ...]]] = {
    "views unshared": _each_tensor(torch.clone),
    "made contiguous": _each_tensor(lambda tensor: tensor.contiguous()),
    "twice the same made two": _each_tensor(lambda tensor: tensor.view_as(tensor)),
    "gradients forgotten": _each_tensor(torch.detach),
    "container lost": lambda path, state: write(path, tuple(state)),
    "order lost": lambda path, state: write(path, state[::-1]),
    "rows lost": lambda path, state: write(path, state[:-1]),
    "needs announced": lambda path, state: (*write(path, state), "nothing"),
    "written by torch": lambda path, state: (torch.save(state, path), ())[1],
    "refused": lambda path, state: write(path, lambda: state),
}


@pytest.mark.parametrize("saboteur", SABOTEURS)
def test_a_writer_that_loses_anything_is_found_out(saboteur: str):
    base = torch.arange(12.0, requires_grad=True).view(3, 4).detach().requires_grad_()
    faults = differences([base.detach().t(), base.detach()[1:], base, base], SABOTEURS[saboteur])
    # torch's own file differs in nothing that this oracle asks for.
    assert bool(faults) == (saboteur != "written by torch")


def _of(dtype: torch.dtype, *values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32).view(dtype)


def _of(dtype: torch.dtype, value: int) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.int32).view(dtype)


def _marked() -> torch.Tensor:
    tensor = torch.ones(2)
    tensor.mark = 1
    return tensor


def _halves(*, shared: bool) -> list[torch.Tensor]:
    base = torch.arange(6.0)
    return [base[:2], (base if shared else base.clone())[2:]]


def _twice(*, same: bool) -> list[torch.Tensor]:
    tensor = torch.ones(2)
    return [tensor, tensor if same else tensor.view_as(tensor)]


def _versions(*, kept: bool) -> Any:
    state = torch.nn.Linear(1, 1, device="meta").state_dict()
    return state if kept else type(state)(state)


def _scaled(scale: float) -> torch.Tensor:
    return torch.quantize_per_tensor(torch.zeros(2), scale, 0, torch.qint8)


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "NaN payload": (lambda: _of(torch.float32, 0x7FC00001), lambda: _of(torch.float32, 0x7FC00002)),
    "sign of a NaN": (lambda: float("nan"), lambda: -float("nan")),
    "sign of zero": (lambda: 0.0, lambda: -0.0),
    "bool and int": (lambda: True, lambda: 1),
    "dtype": (lambda: _of(torch.int32, 5), lambda: _of(torch.uint32, 5)),
    "stride": (lambda: torch.ones(2, 2), lambda: torch.ones(2, 2).t()),
    "offset": (lambda: torch.ones(3)[:2], lambda: torch.ones(3)[1:]),
    "rest of the storage": (lambda: torch.ones(3)[:2], lambda: torch.ones(2)),
    "sharing": (lambda: _halves(shared=True), lambda: _halves(shared=False)),
    "identity of tensors": (lambda: _twice(same=True), lambda: _twice(same=False)),
    "identity of lists": (lambda: [[1]] * 2, lambda: [[1], [1]]),
    "order of keys": (lambda: {"a": 1, "b": 2}, lambda: {"b": 2, "a": 1}),
    "parameter": (lambda: torch.ones(2), lambda: torch.nn.Parameter(torch.ones(2), requires_grad=False)),
    "gradient": (lambda: torch.ones(2), lambda: torch.ones(2, requires_grad=True)),
    "attribute": (lambda: torch.ones(2), _marked),
    "attribute of a dict": (lambda: _versions(kept=True), lambda: _versions(kept=False)),
    "conjugate": (
        lambda: torch.ones(2, dtype=torch.cfloat),
        lambda: torch.ones(2, dtype=torch.cfloat).conj(),
    ),
    "negated": (lambda: torch.ones(2), lambda: torch._neg_view(torch.ones(2))),
    "device": (lambda: torch.ones(2), lambda: torch.ones(2, device="meta")),
    "layout": (lambda: torch.eye(2).to_sparse_csr(), lambda: torch.eye(2).to_sparse_csc()),
    "scale": (lambda: _scaled(0.1), lambda: _scaled(0.2)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_the_description_tells_apart_what_must_not_be_confused(pair):
    one, other = pair
    assert describe(one()) == describe(one())
    assert describe(one()) != describe(other())


def test_what_was_on_a_device_is_expected_on_the_cpu_of_a_load_to_it_and_all_else_as_it_was():
    there, here = torch.device("cuda", 0), torch.device("cpu")
    lines = [
        ("tensor", torch.float32, there, False),
        (torch.UntypedStorage, 8, there, 0, 0),
        "bytes",
        there.type,
    ]
    assert on_the_cpu("loaded", lines) == (
        "loaded",
        [("tensor", torch.float32, here, False), (torch.UntypedStorage, 8, here, 0, 0), "bytes", "cuda"],
    )
    assert on_the_cpu("loaded", [("tensor", torch.device("meta"))]) == (
        "loaded",
        [("tensor", torch.device("meta"))],
    )
    assert on_the_cpu("KeyError", None) == ("KeyError", None)
