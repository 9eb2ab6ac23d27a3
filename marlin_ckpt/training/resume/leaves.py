"""The leaves of a state or a batch, and whether two of them are equal bit for bit."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from isal import isal_zlib

from marlin_ckpt.formats.torch.memory import memory

_SCALARS = (bool, int, float, complex, str, bytes, type(None))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor, and every value that holds none, with the keys that lead to it, `optimizers/0/state`."""
    if isinstance(value, torch.Tensor) or _is_one(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from leaves(one, _join(path, key))
    elif isinstance(value, (list, tuple)):
        for number, one in enumerate(value):
            yield from leaves(one, _join(path, number))
    else:
        yield path, value


def _is_one(value: Any) -> bool:
    """Scalars, and the long lists of them that random number generators have for states."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(one, _SCALARS) for one in value)
    return isinstance(value, _SCALARS)


def _join(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def fingerprint(value: Any) -> str:
    """A short text that is the same for the same bits, dtype and shape; of a short value the value itself."""
    if isinstance(value, torch.Tensor):
        local = value.to_local() if hasattr(value, "to_local") else value  # of a DTensor: this rank's part
        dense = local.detach().to("cpu").contiguous()
        crc32 = isal_zlib.crc32(memory(dense.data_ptr(), dense.nbytes)) if dense.nbytes else 0
        return f"{str(dense.dtype).removeprefix('torch.')}{list(dense.shape)} #{crc32:08x}"
    if isinstance(value, float):
        return repr(value)
    if _is_one(value):
        text = repr(value)
        return text if len(text) < _LONG else f"{text[:_SHOWN]}... #{isal_zlib.crc32(text.encode()):08x}"
    return type(value).__qualname__


_LONG, _SHOWN = 60, 30  # characters


def how_different(left: Any, right: Any) -> str:
    """By how much two leaves differ, in words; "" where they are equal bit for bit."""
    if fingerprint(left) == fingerprint(right):
        return ""
    if not (isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)):
        return f"{fingerprint(left)} and {fingerprint(right)}"
    if left.shape != right.shape or left.dtype != right.dtype:
        kinds = [f"{str(one.dtype).removeprefix('torch.')}{list(one.shape)}" for one in (left, right)]
        return " and ".join(kinds)
    gap = (left.double() - right.double()).abs()
    count = int((gap != 0).sum())
    norm = float(left.double().norm())
    relative = f", relative {float(gap.norm()) / norm:.2g}" if norm else ""
    return f"by at most {float(gap.max()):.2g}{relative}, in {count:,} of {gap.numel():,} elements"
