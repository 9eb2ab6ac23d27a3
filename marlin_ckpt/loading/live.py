"""What live objects do with the states that they are given; torch has no other way to ask than these."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

# The attribute by which an object that takes a state says what the tensors in it are arranged like.
LIKE = "tensors_like"

# Hooks of torch's own that change the names in no state: FSDP2's gather nothing, and those of activation
# checkpoints hide their wrappers both when a state is taken and when it is loaded.
_HARMLESS = ("torch.distributed.fsdp._fully_shard.", "torch.distributed.algorithms._checkpoint.")


def is_plain_value(live: Any) -> bool:
    """Whether a value is no object that a state can be loaded into, such as a number."""
    if live is None or isinstance(live, (torch.Tensor, Mapping, list, tuple)):
        return False
    return not (hasattr(live, "load_state_dict") or hasattr(live, "check_state_dict"))


def changes_states(module: torch.nn.Module) -> bool:
    """Whether a module, or one in it, changes the states that it returns or loads."""
    return type(module).load_state_dict is not torch.nn.Module.load_state_dict or any(
        _change(part._load_state_dict_pre_hooks)  # noqa: SLF001 - torch has no other way to ask
        or _change(part._state_dict_hooks)  # noqa: SLF001
        or not type(part)._load_from_state_dict.__module__.startswith("torch.nn.modules.")  # noqa: SLF001
        for part in module.modules()
    )


def _change(hooks: Mapping[int, Any]) -> bool:
    return not all(getattr(one, "__module__", "").startswith(_HARMLESS) for one in hooks.values())


def judges_itself(module: torch.nn.Module) -> bool:
    """Whether a module, or one in it, may load what differs: states of older versions, as BatchNorm does."""
    plain = torch.nn.Module
    return any(
        type(part)._load_from_state_dict is not plain._load_from_state_dict  # noqa: SLF001
        or type(part).set_extra_state is not plain.set_extra_state
        for part in module.modules()
    )


def changes_its_state(optimizer: Optimizer) -> bool:
    """Whether an optimizer changes the state that it is given before it loads it."""
    return bool(
        type(optimizer).load_state_dict is not Optimizer.load_state_dict
        or optimizer._optimizer_load_state_dict_pre_hooks  # noqa: SLF001
    )
