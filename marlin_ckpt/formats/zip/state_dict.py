"""Writes a state dict alone, as `torch.save(module.state_dict(), file)` would: tensors by their names."""

import functools
import io
import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.pickle.stubs import Globals, Storage, Stub, StubWriter
from marlin_ckpt.formats.values.draft import Draft
from marlin_ckpt.formats.values.dtypes import DTYPES
from marlin_ckpt.formats.values.tensor import contiguous_stride
from marlin_ckpt.formats.zip.writer import write_state
from marlin_ckpt.storage.target import Target

_PROTOCOL = 2  # torch.serialization.DEFAULT_PROTOCOL


def write(target: Target, drafts: Iterable[Draft], about: Manifest | None) -> None:
    """Fills an empty file with a state dict that `torch.load` reads with `weights_only`.

    Args:
        target: the empty file.
        drafts: each with a name of its own; those that are the same as another share its storage.
        about: the manifest, without its records.

    Raises:
        UnsavableStateError: a name cannot be pickled, or a dtype makes no plain tensor.
        OSError: the file cannot be written.
    """
    names = Globals()
    keys: dict[str, str] = {}  # of the drafts whose data is stored, by their names
    state: dict[str, Stub] = {}
    by_name = {one.name: one for one in drafts}
    for name, one in by_name.items():
        key = keys.setdefault(one.same_as or name, str(len(keys)))
        state[name] = tensor_stub(names, one.dtype, one.shape, key, name)
    try:
        pickled = _pickled(state)
    except UnicodeEncodeError as error:
        raise UnsavableStateError("a tensor's name is no text that UTF-8 can hold") from error
    data = ((f"data/{key}", by_name[name].read()) for name, key in keys.items())
    write_state(target, pickled, b"little", data, about)


@functools.lru_cache(maxsize=4096)
def tensor_pickle(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The pickle of one contiguous tensor that is alone in its file, as `write_tensor` takes it.

    Args:
        dtype: torch's name of it, `float32`.
        shape: of any number of dimensions.

    Raises:
        UnsavableStateError: no plain tensor is of the dtype.
    """
    return _pickled(tensor_stub(Globals(), dtype, shape, "0"))


def _pickled(value: dict[str, Stub] | Stub) -> bytes:
    file = io.BytesIO()
    StubWriter(file, _PROTOCOL).dump(value)
    return file.getvalue()


def tensor_stub(names: Globals, dtype: str, shape: tuple[int, ...], key: str, name: str = "") -> Stub:
    """A tensor as `torch.Tensor.__reduce_ex__` describes it, contiguous and at its storage's start.

    Args:
        names: of its pickle.
        dtype: torch's name of it.
        shape: of any number of dimensions.
        key: of its storage.
        name: of the tensor, for messages.

    Raises:
        UnsavableStateError: no plain tensor is of the dtype.
    """
    known = DTYPES.get(dtype)
    if known is None or known.is_quantized:
        what = f"no plain tensor is of the dtype {dtype}" + (f", as {name} is" if name else "")
        raise UnsavableStateError(what)
    kind, numel = ("torch", known.storage), math.prod(shape)
    if not known.storage:
        kind, numel = ("torch.storage", "UntypedStorage"), numel * known.item_bytes
    arguments: tuple[Any, ...] = (
        Storage(("storage", names[kind], key, "cpu", numel)),
        0, tuple(shape), contiguous_stride(shape), False, OrderedDict(),
    )  # fmt: skip
    if known.storage:
        return Stub(names["torch._utils", "_rebuild_tensor_v2"], arguments)
    return Stub(names["torch._utils", "_rebuild_tensor_v3"], (*arguments, names["torch", dtype]))
