"""What a file must hold to be a checkpoint, and what else it may turn out to be."""

from __future__ import annotations

from typing import Any

import torch

from marlin_ckpt.archive.manifest import Manifest
from marlin_ckpt.checkpoint import PAYLOAD_KEYS
from marlin_ckpt.directory.naming import Kind
from marlin_ckpt.errors import NotACheckpointError


def check_payload(payload: Any, manifest: Manifest | None, path: str) -> None:
    """Refuses what is no checkpoint.

    Raises:
        NotACheckpointError: saying what it is.
    """
    is_model = manifest is not None and manifest.kind is Kind.MODEL
    # PyMarlin's users write `checkpoint.__dict__`, which holds our metrics as well.
    if not is_model and type(payload) is dict and set(payload) - {"metrics"} == set(PAYLOAD_KEYS):
        return
    what = f"not a checkpoint but {'a model file' if is_model else _describe(payload)}"
    hint = f"a checkpoint is a dict of {', '.join(PAYLOAD_KEYS)}"
    raise NotACheckpointError(what, path, hint)


def _describe(payload: Any) -> str:
    if not isinstance(payload, dict):
        return f"a pickled {type(payload).__qualname__}"
    if "pytorch-lightning_version" in payload:
        return "a checkpoint by Lightning"
    if payload and all(isinstance(value, torch.Tensor) for value in payload.values()):
        return "a model file"
    keys = [repr(key) for key in payload]
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")  # noqa: PLR2004 - enough to know it by
    return f"a dict of {shown}" if keys else "an empty dict"
