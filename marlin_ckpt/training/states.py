"""Hands loaded states back to the module, the trainer and the backend."""

import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from torch.optim import Optimizer

from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.loading.live import LIKE
from marlin_ckpt.loading.words import refusals
from marlin_ckpt.training.module import ModuleInterface

_Check = Callable[[Any], None]


def load(
    checkpointer: AbstractCheckpointer,
    module: ModuleInterface,
    check: _Check,
    optimizers: Sequence[Optimizer] = (),
) -> Checkpoint:
    """Loads, and hands the module its state.

    The file is read straight into a module whose state is its state dict and nothing else.

    Args:
        checkpointer: what loads.
        module: what takes its state.
        check: is given the trainer's state before the module changes, and raises where it does not fit;
            not called for a module with an `update_state` of its own, which may make its optimizers others.
        optimizers: of one of several ranks; what it needs of their states is read, and they are left as they
            are.

    Raises:
        StateMismatchError: the state does not fit the module.
        Whatever the checkpointer's `load` raises.
    """
    reads_into = can_read_into(checkpointer, module)

    def judge(state: Any) -> None:
        with refusals("the loaded state does not fit the trainer"):
            check(state)

    # Takes the trainer's place: decides whether the state fits, and loads nothing.
    judging = SimpleNamespace(check_state_dict=judge, **{LIKE: {"optimizers": list(optimizers)}})
    into = Checkpoint(module_interface_state=module, trainer_state=judging)
    options = {"into": into} if reads_into else {}
    load_it: Callable[..., Checkpoint | None] = checkpointer.load
    loaded = load_it(**options) or Checkpoint()  # PyMarlin's documents allow None
    if not reads_into or loaded.module_interface_state is None:
        update("module", module, loaded.module_interface_state)
    return loaded


def can_read_into(checkpointer: AbstractCheckpointer, module: ModuleInterface) -> bool:
    """Whether a file can be read straight into a module: its state is its state dict and nothing else."""
    kind: type = type(module)
    own = "get_state", "update_state", "state_dict"
    is_its_state_dict = all(getattr(kind, name, None) is getattr(ModuleInterface, name) for name in own)
    # A checkpointer of the user's may know PyMarlin's `load()` alone.
    return is_its_state_dict and "into" in inspect.signature(checkpointer.load).parameters


def update(what: str, owner: Any, state: Any) -> None:
    """Calls an owner's `update_state`.

    Raises:
        StateMismatchError: the state does not fit.
    """
    if state is None:
        owner.update_state(None)
        return
    with refusals(f"the loaded state does not fit the {what}"):
        owner.update_state(state)
