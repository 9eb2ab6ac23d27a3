"""Whether a file holds a checkpoint of ours, and what it holds instead."""

import contextlib
import itertools
import reprlib
from collections.abc import Collection
from typing import Any

from marlin_ckpt.checkpoint import PAYLOAD_KEYS
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import BadFileError
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.content import contents
from marlin_ckpt.formats.format import Format, format_of
from marlin_ckpt.formats.registry import open_format
from marlin_ckpt.naming import Kind
from marlin_ckpt.storage.local.files import again_if_stale
from marlin_ckpt.storage.paths import open_source
from marlin_ckpt.storage.source import Source

_MOST_KEYS = 5
MODEL = "a model file"
_STRANGERS = {Format.SAFETENSORS: "a safetensors file", Format.PICKLE: "a bare pickle"}


def is_checkpoint(payload: Any) -> bool:
    """Whether what a file holds is the three states of a checkpoint."""
    # PyMarlin's users write `checkpoint.__dict__`, which holds our metrics as well.
    return type(payload) is dict and set(payload) - {"metrics"} == set(PAYLOAD_KEYS)


def other_content(entry: Entry) -> str:
    """What a sound file holds that is no checkpoint of ours; "" where it is one, or nothing tells.

    The manifest says what a file is; where there is none, the keys of what is pickled do.

    Args:
        entry: the file; a folder that makes up a checkpoint is one.

    Raises:
        CheckpointNotFoundError, StorageError: it has gone, or cannot be read.
    """

    def read() -> str:
        with contextlib.suppress(BadFileError), open_source(entry.path) as source:
            return _other_content(source)
        return ""

    layout = layouts.of(entry)
    return again_if_stale(read) if layout is None else layout.content


def _other_content(source: Source) -> str:
    if said := _STRANGERS.get(format_of(source)):
        return said
    if (manifest := open_format(source).inspect(source).manifest) is not None:
        return "" if manifest.kind is Kind.CHECKPOINT else MODEL
    found = contents.read_contents(source)
    root = found.root
    if is_checkpoint(root.origin):
        return ""
    if root.kind is contents.NodeKind.MAPPING:
        are_tensors = all(one.kind is contents.NodeKind.TENSOR for one in root.children)
        return described([one.key for one in root.children], are_tensors=are_tensors)
    return "a TorchScript archive" if found.is_torch_script else f"a pickled {root.label or root.kind}"


def described(keys: Collection[Any], *, are_tensors: bool) -> str:
    """What a pickled dict is that is no checkpoint.

    Args:
        keys: of the dict.
        are_tensors: whether all that it holds is tensors.
    """
    if "pytorch-lightning_version" in keys:
        return "a checkpoint by Lightning"
    if keys and are_tensors:
        return MODEL
    # reprlib's, since a key may be nested too deeply for repr() or be a tensor of 10^12 elements.
    shown = ", ".join(reprlib.repr(key) for key in itertools.islice(keys, _MOST_KEYS))
    more = ", ..." if len(keys) > _MOST_KEYS else ""
    return f"a dict of {shown}{more}" if keys else "an empty dict"
