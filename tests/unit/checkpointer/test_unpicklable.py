"""Where in a state it is that cannot be pickled."""

from __future__ import annotations

import threading

import pytest
import torch

from marlin_ckpt import Checkpoint, UnsavableStateError


class _Unpicklable:
    def __reduce__(self):
        raise ZeroDivisionError("no way")


class _Settings:
    def __init__(self, value: object) -> None:
        self.rate, self.warmup = 1.0, value


@pytest.mark.parametrize(
    ("make_state", "place"),
    [
        (lambda bad: {"settings": {"rate": 1.0, "warmup": bad}}, "settings.warmup"),
        (lambda bad: {"settings": [torch.ones(2), (1, bad)]}, "settings.1.1"),
        (lambda bad: {"settings": _Settings(bad)}, "settings.warmup"),
        (lambda bad: {"settings": {bad: 1}}, r"settings.\(key\) "),
        (lambda bad: bad, ""),
    ],
    ids=["dict", "list and tuple", "object", "key", "itself"],
)
@pytest.mark.parametrize(
    "bad",
    [lambda: 1, threading.Lock(), _Unpicklable()],
    ids=["function", "lock", "failing reduce"],
)
@pytest.mark.parametrize("how", ["save", "asynchronously", "before training"])
def test_the_error_names_the_place_of_what_cannot_be_pickled(make_checkpointer, make_state, place, bad, how):
    checkpointer = make_checkpointer(async_save=how == "asynchronously")
    state = Checkpoint(make_state(bad))
    call = (lambda: checkpointer.check_space(state, [], 1)) if how == "before training" else None
    at = "module_interface_state" + (f".{place}" if place else "")
    with pytest.raises(UnsavableStateError, match=f"^the state at {at}"):
        (call or (lambda: checkpointer.save(state, 0)))()


def test_a_part_that_cannot_be_pickled_and_holds_itself_is_named_once(make_checkpointer):
    loop: list[object] = [threading.Lock()]
    loop.insert(0, loop)
    with pytest.raises(UnsavableStateError, match=r"^the state at module_interface_state"):
        make_checkpointer().save(Checkpoint(loop), 0)
