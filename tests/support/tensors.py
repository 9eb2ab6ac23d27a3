"""Tensors of every kind, some of which `torch.save` refuses or cannot load again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import return_and_correct_aliasing

from tests.support.states import Subclass


class Wrapper(torch.Tensor):
    """Two tensors that pose as one, as torchao's quantized tensors and DTensor do."""

    @staticmethod
    def __new__(cls, one: torch.Tensor, other: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(cls, one.shape, dtype=one.dtype, device=one.device)

    def __init__(self, one: torch.Tensor, other: torch.Tensor) -> None:
        self.one, self.other = one, other

    def __tensor_flatten__(self):
        return ["one", "other"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Wrapper(inner["one"], inner["other"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        bare = torch.utils._pytree.tree_map_only(cls, lambda wrapper: wrapper.one, (args, kwargs or {}))
        return return_and_correct_aliasing(func, args, kwargs or {}, func(*bare[0], **bare[1]))


class OwnReduce(torch.Tensor):
    """A subclass that says by itself how it is made again."""

    def __reduce_ex__(self, protocol):
        return (torch.as_tensor, ([1.0, 2.0],))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _sparse() -> torch.Tensor:
    matrix = torch.tensor([[0, 1.5, 0, 0], [2, 0, 0, 3], [0, 0, 0, 0], [0, 0, 4, 0]])
    return matrix.to(torch.float64)


def _uncoalesced() -> torch.Tensor:
    indices, values = torch.tensor([[1, 1, 0], [2, 2, 0]]), torch.tensor([1.0, 2.0, 3.0])
    return torch.sparse_coo_tensor(indices, values, (2, 4))


def _quantized() -> dict[str, torch.Tensor]:
    values = torch.linspace(-2, 2, 12).reshape(3, 4)
    scales, zeros = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), torch.tensor([0, 1, 2])
    of = torch.quantize_per_tensor(values, 0.1, 3, torch.qint8)
    return {
        "qint8": of,
        "quint8": torch.quantize_per_tensor(values, 0.1, 3, torch.quint8),
        "qint32": torch.quantize_per_tensor(values, 0.1, 3, torch.qint32),
        "view": of[1:, ::2],
        "transposed": of.t(),
        "the same": of,
        "channels": torch.quantize_per_channel(values, scales, zeros, 0, torch.qint8),
        "columns": torch.quantize_per_channel(values.t(), scales, zeros, 1, torch.quint8),
    }


def _shared() -> dict[str, Any]:
    base = torch.arange(4000.0)
    tied = nn.Parameter(torch.randn(8, 8, generator=_generator()))
    rows = torch.arange(24).reshape(4, 6)
    return {
        "view": base[10:20], "base": base, "every third": base[::3], "embedding": tied, "head": tied,
        "head's data": tied.detach(), "head's rows": tied[2:4].t(), "diagonal": rows.diagonal(),
        "windows": rows.unfold(1, 3, 1), "expanded": rows[:, :1].expand(4, 9), "flipped": rows.permute(1, 0),
        "strided": torch.as_strided(rows, (2, 2), (1, 7), 3), "empty": torch.empty(0),
        "empty of a shape": torch.empty(0, 3, 2), "empty view": base[5:5], "scalar": torch.tensor(3),
        "scalar view": base[17], "odd": torch.ones(7, dtype=torch.uint8),
        "channels last": torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }  # fmt: skip


def _resized() -> list[torch.Tensor]:
    """Storages longer than their tensors, and of a length that is no multiple of the element's."""
    long = torch.arange(9.0)
    long.resize_(2)
    crooked = torch.arange(7, dtype=torch.uint8).untyped_storage()
    return [long, torch.empty(0, dtype=torch.float32).set_(crooked, 0, (1,), (1,))]


def _marked() -> list[torch.Tensor]:
    plain, parameter = torch.ones(3), nn.Parameter(torch.ones(2))
    plain.mark, plain.others = "kept", [plain, parameter]
    parameter.is_decayed = True
    subclass = torch.arange(4.0).as_subclass(Subclass)
    subclass.mark = {"inner": plain}
    return [plain, parameter, subclass, nn.Parameter(subclass), nn.Parameter(plain.as_subclass(Subclass))]


def _grown() -> list[torch.Tensor]:
    leaf = torch.ones(3, requires_grad=True)
    leaf.grad = torch.full((3,), 2.0)
    return [leaf, leaf.detach(), nn.Parameter(torch.ones(1), requires_grad=False), nn.Buffer(torch.ones(2))]


def _conjugated() -> list[torch.Tensor]:
    base = torch.randn(2, 3, dtype=torch.complex64, generator=_generator())
    real = torch.arange(3.0)
    return [base, base.conj(), base.mH, torch._neg_view(base), real, torch._neg_view(real)[1:]]


def _jagged(*, transposed: bool = False) -> torch.Tensor:
    made = torch.nested.nested_tensor([torch.ones(2, 3), torch.zeros(4, 3)], layout=torch.jagged)
    return made.transpose(1, 2) if transposed else made


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.ones(2, 3)


def bits(kind: torch.dtype) -> list[torch.Tensor]:
    noise = torch.randint(0, 256, (64,), dtype=torch.uint8, generator=_generator())
    return [noise.view(kind), noise.view(kind)[:0], noise.view(kind)[1], torch.empty((0, 3), dtype=kind)]


def same_memory_of_two_dtypes() -> list[torch.Tensor]:
    base = torch.ones(4)
    return [base, base.view(torch.int32)]


def _copied_on_write() -> list[torch.Tensor]:
    base = torch.ones(5)
    return [base, torch._lazy_clone(base)]


def _mapped() -> list[torch.Tensor]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(range(64)))
        file.flush()
        whole = torch.from_file(file.name, size=64, dtype=torch.uint8)
    return [whole, whole[8:16]]


TENSORS: dict[str, Callable[[], Any]] = {
    "shared": _shared,
    "resized": _resized,
    "with attributes": _marked,
    "with gradients": _grown,
    "conjugated and negated": _conjugated,
    "quantized": _quantized,
    "sparse": lambda: [_sparse().to_sparse(), _sparse().to_sparse().t(), _sparse().to_sparse(1)],
    "sparse, not coalesced": _uncoalesced,
    "sparse without entries": lambda: torch.zeros(3, 4).to_sparse(),
    "hybrid": lambda: torch.ones(3, 4, 2).to_sparse(2),
    "sparse parameter": lambda: nn.Parameter(_sparse().to_sparse()),
    "sparse rows": lambda: _sparse().to_sparse_csr(),
    "sparse columns": lambda: _sparse().to_sparse_csc(),
    "sparse blocks in rows": lambda: _sparse().to_sparse_bsr((2, 2)),
    "sparse blocks in columns": lambda: _sparse().to_sparse_bsc((2, 2)),
    "the same sparse twice": lambda: [_sparse().to_sparse()] * 2,
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.zeros(4, 3)]),
    "nested and empty": lambda: torch.nested.nested_tensor([]),
    "jagged": _jagged,
    "jagged and transposed": lambda: _jagged(transposed=True),
    "jagged, its offsets given": lambda: torch.nested.nested_tensor_from_jagged(
        torch.randn(6, 2, generator=_generator()), torch.tensor([0, 2, 6])
    ),
    "meta": lambda: [torch.ones(2, 3, device="meta").t(), nn.Parameter(torch.ones(1, device="meta"))],
    "wrapper": lambda: [Wrapper(torch.ones(2), torch.zeros(3))] * 2,
    "subclass that reduces itself": lambda: torch.ones(2).as_subclass(OwnReduce),
    "uninitialized": lambda: [nn.UninitializedParameter(), nn.UninitializedBuffer()],
    "of a graph": lambda: torch.ones(2, requires_grad=True) * 2,
    "copied on write": _copied_on_write,
    "in shared memory": lambda: torch.ones(3).share_memory_(),
    "inference": lambda: torch.inference_mode()(torch.ones)(3),
    "imaginary part of the conjugate": lambda: _conjugated()[1].imag,
    "real part of the conjugate": lambda: _conjugated()[1].real,
    "mapped": _mapped,
    "empty ones of two dtypes": lambda: [torch.empty(0), torch.empty(0).view(torch.int32)],
}
