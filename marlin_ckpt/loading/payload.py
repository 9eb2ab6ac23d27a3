"""What a checkpoint consists of, and what a file holds that is none."""

from typing import Any

import torch

from marlin_ckpt.checkpoint import PAYLOAD_KEYS
from marlin_ckpt.errors import NotACheckpointError
from marlin_ckpt.formats.content.payload import MODEL, described, is_checkpoint
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import Kind


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
