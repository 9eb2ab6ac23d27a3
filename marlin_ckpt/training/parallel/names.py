"""Leaves what wrappers inside a module put into names out of its state."""

from __future__ import annotations

import weakref
from collections.abc import MutableMapping
from typing import Any

from torch import nn

_COMPILED = "_orig_mod"  # as torch.compile names the module that it has compiled
_WRAPPERS = (_COMPILED, "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_plain: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def plain(name: str) -> str:
    """The name of a parameter without the parts that wrappers have put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def keep_plain(module: nn.Module) -> None:
    """Has the state of a module name the parts that torch.compile has compiled as it would without.

    States with and without these names are loaded. Torch's activation checkpointing does so by itself.

    Args:
        module: with compiled modules inside it.
    """
    for one in module.modules():
        if _COMPILED in one._modules and one not in _plain:  # noqa: SLF001 - torch has no public way
            _plain.add(one)
            one.register_state_dict_post_hook(_after_state_dict)  # type: ignore[no-untyped-call]
            one.register_load_state_dict_pre_hook(_before_load)  # type: ignore[no-untyped-call]


def _after_state_dict(module: nn.Module, state: Any, prefix: str, _: Any) -> None:
    del module
    _rename(state, f"{prefix}{_COMPILED}.", prefix)
    if metadata := getattr(state, "_metadata", None):
        _rename(metadata, f"{prefix}{_COMPILED}.", prefix)
        if (own := metadata.pop(f"{prefix}{_COMPILED}", None)) is not None:
            metadata[prefix.removesuffix(".")] = own


def _before_load(module: nn.Module, state: Any, prefix: str, *_: Any) -> None:
    del module
    wrapped = f"{prefix}{_COMPILED}."
    if not any(name.startswith(wrapped) for name in state):
        _rename(state, prefix, wrapped)


def _rename(state: MutableMapping[str, Any], before: str, after: str) -> None:
    """Renames all that begins with one prefix, in its order."""
    for name in [name for name in state if name.startswith(before)]:
        state[after + name.removeprefix(before)] = state.pop(name)
