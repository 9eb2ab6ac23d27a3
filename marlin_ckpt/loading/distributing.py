"""Hands tensors that a file has whole to live DTensors: each rank takes its part."""

import copy
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch.optim import Optimizer

from marlin_ckpt.loading.tensors import local_of


def distributed(saved: Any, live: Any) -> Any:
    """What was saved, with this rank's parts in the places of tensors that are DTensors in the live object.

    Args:
        saved: is not changed itself.
        live: a tensor, a module or an optimizer; of anything else the state is returned as it is.
    """
    if isinstance(live, torch.Tensor):
        return _part(saved, live)
    if isinstance(live, torch.nn.Module) and isinstance(saved, Mapping) and has_parts(live.parameters()):
        return _of_module(saved, live.state_dict())
    if isinstance(live, Optimizer) and isinstance(saved, Mapping):
        parameters = [one for group in live.param_groups for one in group["params"]]
        return _of_optimizer(saved, live, parameters) if has_parts(parameters) else saved
    return saved


def has_parts(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether some tensors are DTensors, of which each rank has a part."""
    return any(local_of(one) is not one for one in tensors)


def _of_module(saved: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
    whole: Any = copy.copy(saved) if isinstance(saved, MutableMapping) else dict(saved)
    for key, one in state.items():
        if key in whole:
            whole[key] = _part(whole[key], one)
    return whole


def _of_optimizer(saved: Mapping[str, Any], live: Optimizer, parameters: list[torch.Tensor]) -> Any:
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    states = dict(saved["state"])
    for key, parameter in zip(keys, parameters, strict=False):
        own = live.state.get(parameter, {})
        if key in states:
            states[key] = {
                what: _part(one, own.get(what, None if what == "step" else parameter))
                for what, one in states[key].items()
            }
    return {**saved, "state": states}


def _part(saved: Any, live: Any) -> Any:
    """This rank's part of a tensor, as a DTensor like the live one."""
    if not (isinstance(live, torch.Tensor) and isinstance(saved, torch.Tensor)):
        return saved
    local = local_of(live)
    if local is live or local_of(saved) is not saved or saved.shape != live.shape or saved.is_meta:
        return saved
    from marlin_ckpt.distributed.reads.tensors import box_of  # noqa: PLC0415 - there is a DTensor: it is imported

    part = saved.detach()
    for dimension, (start, size) in enumerate(zip(*box_of(live), strict=True)):
        part = part.narrow(dimension, start, size)
    own: Any = live
    return type(own).from_local(
        part.to(local.device, copy=True).contiguous(), own.device_mesh, own.placements,
        run_check=False, shape=saved.shape, stride=torch.empty(saved.shape, device="meta").stride(),
    )  # fmt: skip
