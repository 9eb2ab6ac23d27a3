"""Unpickles states of plain values and tensors, whose bytes are read after it."""

import io
import math
import re
import struct
from collections import OrderedDict
from typing import Any

import torch

from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats.torch import unpickling
from marlin_ckpt.formats.torch.placement import Storages
from marlin_ckpt.formats.values.tensor import contiguous_stride

_rebuild_tensor: Any = torch._utils._rebuild_tensor  # noqa: SLF001 - as torch.load
_rebuild_tensor_v2 = torch._utils._rebuild_tensor_v2  # noqa: SLF001
# A pickle that imports nothing else makes its tensors without a look at their bytes, which may then be read
# after it.
_PLAIN_NAMES = re.compile(
    r"torch\.(Size|[A-Za-z0-9]+Storage|b?float\w+|u?int\d+|bool|complex\d+|storage\.UntypedStorage)"
    r"|torch\._utils\._rebuild_(parameter|tensor_v2|tensor_v3)"
    r"|collections\.(Counter|OrderedDict|defaultdict)|__builtin__\.(complex|set)|_codecs\.encode",
    re.ASCII,
)
# The opcodes of a tensor that is all of a storage, behind the MARK of its arguments: its storage is named by
# `("storage", torch.FloatStorage, "12", "cpu", 768)`, and then come offset, size, stride, requires_grad and
# hooks. Sizes and strides are those of a tensor before it, as marlin-ckpt writes them.
# Those that have one of the first 256 places in the memo say so in another way, and are few.
_GET, _PUT = rb"(h.|j...\0)", rb"r(...\0)"
_TENSOR = re.compile(
    rb"\(" + _GET + _GET + rb"X(.)\0\0\0(\d{1,20}+)" + _PUT + _GET + rb"(K.|M..|J...[\0-\x7f])t" + _PUT
    + rb"QK\0(h.|j...\0|\))(h.|j...\0|\))\x89" + _GET + rb"\)R" + _PUT
    + rb"t" + _PUT + rb"R" + _PUT,
    re.DOTALL,
)  # fmt: skip
_PLACES = struct.Struct("<5L")
_OPCODES = 22
_ROOM = 2 * unpickling.CALL + 64  # bytes of memory that its two calls and its tuple take
_MOST_DIMENSIONS = 64  # of torch's tensors; to multiply many more numbers takes longer than their bytes allow


class NotPlainError(MarlinError):
    """A pickle imports something beside plain values and tensors."""


class PlainUnpickler(unpickling.Unpickler):
    """Reads a pickle that imports nothing beside plain values and tensors.

    Args:
        pickle: its bytes.
        storages: make its tensors' memory.
    """

    def __init__(self, pickle: bytes, storages: Storages) -> None:
        self._pickle, self._file, self._storages = pickle, io.BytesIO(pickle), storages
        super().__init__(self._file, encoding="utf-8")
        # Under a mode, FakeTensorMode say, torch looks at each tensor that is made.
        self._is_modeless = not torch._C._len_torch_dispatch_stack()  # noqa: SLF001 - torch has no other way
        self._counts: dict[tuple[int, int], tuple[int, Any, Any]] = {}  # by the identity of size and stride

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a tensor refers to."""
        return self._storages.load(pid)

    def load_mark(self) -> None:
        """Begins with a tuple; or makes a tensor by all of its opcodes at once, 28 of them.

        One by one they took 5 of 13 ms for the state of 592 tensors.
        """
        if not (self.stack and self.stack[-1] is _rebuild_tensor_v2 and self._load_tensor()):
            super().load_mark()  # type: ignore[misc]

    def _load_tensor(self) -> bool:
        """Makes a tensor of the opcodes that follow, if they are those of most; else it does nothing."""
        found = _TENSOR.match(self._pickle, self._file.tell())
        if found is None or not self._is_modeless:
            return False
        word, kind, length, key, put, place, numel, second, size, stride, hooks, *puts = found.groups()
        memo, gets = self._counted, (word, kind, place, size, stride, hooks)
        try:
            word, kind, place, size, stride, hooks = [
                () if one == b")" else memo[int.from_bytes(one[1:], "little")] for one in gets
            ]
        except IndexError:
            return False
        next_place, count = len(memo), int.from_bytes(numel[1:], "little")
        is_usual = (
            type(word) is str
            and word == "storage"
            and length[0] == len(key)
            and hooks is OrderedDict
            and b"".join((put, second, *puts)) == _PLACES.pack(*range(next_place, next_place + 5))
            and count
            and count == self._count(size, stride)
        )
        if not is_usual:
            return False
        self._charge(_ROOM)
        self.budget.count_opcodes(_OPCODES)
        name = key.decode()
        made = self._storages.whole((word, kind, name, place, count), size, stride)
        # No pickler refers to the tuples of arguments, and to the hooks, again.
        memo += (name, None, None, None, made)
        self.stack[-1] = made
        self._file.seek(found.end())
        return True

    def _count(self, size: Any, stride: Any) -> int:
        """How many elements a tensor has that are one after the other in its storage; -1 of another."""
        known = self._counts.get((id(size), id(stride)))
        if known is None:
            is_dense = (
                type(size) is type(stride) is tuple
                and len(size) == len(stride) <= _MOST_DIMENSIONS
                and all(type(one) is int and one >= 0 for one in (*size, *stride))
                and stride == contiguous_stride(size)
            )
            # With the two, whose identities are not given to others while they are kept.
            known = (math.prod(size) if is_dense else -1), size, stride
            self._counts[id(size), id(stride)] = known
        return known[0]

    def _made(self, called: Any, arguments: tuple[Any, ...]) -> Any:
        match arguments:
            # As torch makes it, without the look at modes, which takes twice as long as the tensor does.
            case (storage, offset, size, stride, False, OrderedDict() as hooks) if (
                called is _rebuild_tensor_v2 and not hooks and self._is_modeless
            ):
                return _rebuild_tensor(storage, offset, size, stride)
        return super()._made(called, arguments)

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """What torch allows to be imported, if it is plain."""
        if not _PLAIN_NAMES.fullmatch(f"{module_name}.{global_name}"):
            raise NotPlainError(global_name)
        return super().find_class(module_name, global_name)
