"""Saving and loading leave no reference cycles: the tensors of a state are freed with the last use of it.

The cyclic collector is off. It counts containers and not their bytes, so that a training loop of few objects
and large tensors may go on for long before it runs.
"""

from __future__ import annotations

import errno
import fractions
import gc
import os
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from marlin_ckpt import (
    Checkpoint,
    CorruptCheckpointError,
    MarlinError,
    NotACheckpointError,
    StateMismatchError,
    StorageError,
    UnsafeCheckpointError,
    UnsavableStateError,
)

PAST_THE_PAGE_CACHE = 17 << 20  # elements, 68 MiB: such files are written by threads
ASYNC = [{"async_save": True}, {"async_save": True, "overlap": False}]
ASYNC += [{"async_save": True, "check_overlap": True}]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    torch.optim.SGD([torch.zeros(1)])  # the first one imports parts of torch, which leaves cycles
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _state(elements: int = 1000, **more: Any) -> tuple[Checkpoint, list[weakref.ref[torch.Tensor]]]:
    """A state with a parameter, a view, and an optimizer's state; and what tells whether they are freed."""
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    weight = torch.zeros(elements)
    tensors = [weight, weight[:10], *module.state_dict().values(), optimizer.state[module.weight]["exp_avg"]]
    states = {"tensors": tensors, "module": module.state_dict(), **more}
    return Checkpoint(states, {"optimizers": [optimizer.state_dict()]}), [weakref.ref(one) for one in tensors]


def _alive(tensors: list[weakref.ref[torch.Tensor]]) -> list[int]:
    return [number for number, one in enumerate(tensors) if one() is not None]


def _tensors() -> int:
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


@pytest.mark.parametrize("elements", [1000, PAST_THE_PAGE_CACHE])
@pytest.mark.parametrize("options", [{}, *ASYNC], ids=str)
def test_a_saved_state_is_freed_when_it_is_dropped(make_checkpointer, options, elements):
    checkpointer = make_checkpointer(**options)
    state, tensors = _state(elements)
    checkpointer.save(state, 0)
    checkpointer.wait()
    del state
    assert _alive(tensors) == []


@pytest.mark.parametrize("options", [{}, *ASYNC], ids=str)
def test_a_saved_model_state_is_freed_when_it_is_dropped(make_checkpointer, options):
    checkpointer = make_checkpointer(**options)
    state, tensors = _state()
    checkpointer.save_model(state.module_interface_state, 0)
    checkpointer.wait()
    del state
    assert _alive(tensors) == []


def test_an_optimizer_that_was_registered_is_freed_with_its_run(make_checkpointer):
    checkpointer = make_checkpointer(async_save=True)
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(module.parameters(), momentum=0.9)
    checkpointer.register(optimizer)
    for index in range(2):
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        checkpointer.save(Checkpoint(module.state_dict(), optimizer.state_dict()), index)
    checkpointer.wait()
    momenta = [weakref.ref(one["momentum_buffer"]) for one in optimizer.state.values()]
    parameters = [weakref.ref(one) for one in module.parameters()]
    del module, optimizer
    assert _alive([*parameters, *momenta]) == []


def _fsync_fails(_: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("behaviour", ["raise", "warn"])
@pytest.mark.parametrize("options", [{}, *ASYNC], ids=str)
def test_a_state_that_could_not_be_written_is_freed_with_the_error(
    make_checkpointer, monkeypatch, options, behaviour
):
    checkpointer = make_checkpointer(on_save_error=behaviour, **options)
    state, tensors = _state()
    checkpointer.check_mk_dir(checkpointer.args.save_dir)
    monkeypatch.setattr(os, "fsync", _fsync_fails)
    try:
        checkpointer.save(state, 0)
        checkpointer.wait()
    except StorageError as error:
        assert (error.errno, behaviour) == (errno.EIO, "raise")  # noqa: PT017 - an ExceptionInfo keeps frames
    del state
    assert _alive(tensors) == []


@pytest.mark.parametrize("options", [{}, {"async_save": True}], ids=str)
def test_a_state_that_cannot_be_pickled_is_freed_with_the_error(make_checkpointer, options):
    checkpointer = make_checkpointer(**options)
    state, tensors = _state(function=lambda: None)
    try:
        checkpointer.save(state, 0)
    except UnsavableStateError as error:
        assert "pickled" in error.what  # noqa: PT017 - an ExceptionInfo would keep the frames
    del state
    assert _alive(tensors) == []


@pytest.fixture
def saved(make_checkpointer) -> Any:
    """A checkpointer with two checkpoints."""
    checkpointer = make_checkpointer()
    for index in range(2):
        checkpointer.save(_state()[0], index)
    gc.collect()
    return checkpointer


def test_a_loaded_state_is_freed_when_it_is_dropped(saved):
    before = _tensors()
    loaded = saved.load()
    assert _tensors() > before
    del loaded
    assert _tensors() == before


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("kind", ["legacy", "sparse"])
def test_a_state_that_torch_itself_loads_is_freed_when_it_is_dropped(make_checkpointer, kind, weights_only):
    checkpointer = make_checkpointer(weights_only=weights_only, load_filename="model_0.pt")
    state, _ = _state(sparse=torch.eye(3).to_sparse()) if kind == "sparse" else _state()
    checkpointer.check_mk_dir(checkpointer.args.save_dir)
    path = os.path.join(checkpointer.args.save_dir, "model_0.pt")
    torch.save(state.payload(), path, _use_new_zipfile_serialization=kind == "sparse")
    del state
    before = _tensors()
    loaded = checkpointer.load()
    assert _tensors() > before
    del loaded
    assert _tensors() == before


def test_what_was_loaded_into_live_objects_holds_nothing_else(make_checkpointer):
    checkpointer = make_checkpointer()
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    into = Checkpoint(module, {"optimizer": optimizer, "weight": torch.zeros(5)})
    checkpointer.save(
        Checkpoint(module.state_dict(), {"optimizer": optimizer.state_dict(), "weight": torch.ones(5)}), 0
    )
    before = _tensors()
    checkpointer.load(into)
    assert _tensors() == before
    parameters = [weakref.ref(one) for one in module.parameters()]
    del module, optimizer, into
    assert _alive(parameters) == []


def test_a_state_that_does_not_fit_is_freed_with_the_error(saved):
    into = Checkpoint({"tensors": [torch.zeros(1)]})
    before = _tensors()
    try:
        saved.load(into)
    except StateMismatchError as error:
        assert error.differences  # noqa: PT017 - an ExceptionInfo would keep the frames
    assert _tensors() == before


def _damage(path: str) -> None:
    """Changes a byte of the data of the last storage, which is found only when everything else is read."""
    with open(path, "r+b") as file:
        at = file.read().rindex(b"archive/version") - 100
        file.seek(at)
        file.write(bytes(1) if file.read(1) != bytes(1) else b"x")


@pytest.mark.parametrize("filename", ["model_1.pt", None])
def test_the_states_of_corrupt_files_are_freed_with_the_error(saved, filename):
    for index in range(2):
        _damage(os.path.join(saved.args.save_dir, f"model_{index}.pt"))
    saved.args.load_filename = filename
    before = _tensors()
    try:
        saved.load()
    except CorruptCheckpointError as error:
        assert error.where.endswith("model_1.pt")  # noqa: PT017 - an ExceptionInfo would keep the frames
    assert _tensors() == before


class _Counting:
    """Counts the tensors that there are while a state is handed over."""

    found = 0

    def load_state_dict(self, state: Any) -> None:
        self.found = _tensors()


def test_the_state_of_a_file_that_is_passed_over_is_freed_before_the_next_one_is_read(saved):
    counting, again = _Counting(), _Counting()
    saved.args.load_filename = "model_0.pt"
    saved.load(Checkpoint(counting))
    saved.args.load_filename = None
    _damage(os.path.join(saved.args.save_dir, "model_1.pt"))
    saved.load(Checkpoint(again))
    assert again.found == counting.found > 0


@pytest.mark.parametrize(
    ("content", "expected"), [({"weight": torch.ones(5)}, NotACheckpointError), (None, UnsafeCheckpointError)]
)
def test_what_is_refused_is_freed_with_the_error(make_checkpointer, content, expected):
    checkpointer = make_checkpointer(load_filename="model_0.pt")
    checkpointer.check_mk_dir(checkpointer.args.save_dir)
    if content is None:
        content = Checkpoint({"weight": torch.ones(5)}, fractions.Fraction(1, 2)).payload()
    torch.save(content, os.path.join(checkpointer.args.save_dir, "model_0.pt"))
    del content
    before = _tensors()
    try:
        checkpointer.load()
    except MarlinError as error:
        assert type(error) is expected  # noqa: PT017 - an ExceptionInfo would keep the frames
    assert _tensors() == before
