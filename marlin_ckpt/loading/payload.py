"""What a checkpoint consists of, and what a file holds that is none."""

import operator
from collections.abc import Mapping
from typing import Any

import torch

from marlin_ckpt.checkpoint import PAYLOAD_KEYS
from marlin_ckpt.errors import ArgumentsError, Fault, NotACheckpointError
from marlin_ckpt.formats.content.payload import MODEL, described, is_checkpoint
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import Kind


def plain_metrics(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Metrics as plain numbers: a tensor or NumPy scalar of one element becomes its value.

    Raises:
        ArgumentsError: naming every one that is no number.
    """
    numbers: dict[str, float] = {}
    faults = []
    for name, value in (metrics or {}).items():
        try:
            numbers[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            faults.append(Fault(f"metrics[{name!r}]", f"expected a number, not {value!r}"))
    if faults:
        raise ArgumentsError(faults)
    return numbers


def check_payload(payload: Any, manifest: Manifest | None, path: str) -> None:
    """Refuses a payload that is no checkpoint.

    Raises:
        NotACheckpointError: saying what it is.
    """
    is_model = manifest is not None and manifest.kind is Kind.MODEL
    if not is_model and is_checkpoint(payload):
        return
    what = f"not a checkpoint but {MODEL if is_model else _describe(payload)}"
    hint = f"a checkpoint is a dict of {', '.join(PAYLOAD_KEYS)}"
    raise NotACheckpointError(what, path, hint)


def _describe(payload: Any) -> str:
    if not isinstance(payload, dict):
        return f"a pickled {type(payload).__qualname__}"
    are_tensors = all(isinstance(value, torch.Tensor) for value in payload.values())
    return described(payload.keys(), are_tensors=are_tensors)


def checked_index(index: int) -> int:
    """An index as a plain integer.

    Raises:
        ArgumentsError: it is none, or below 0.
    """
    try:
        number = operator.index(index)
    except TypeError:
        number = -1
    if number < 0:
        raise ArgumentsError([Fault("index", f"expected an integer of 0 or more, not {index!r}")])
    return number
