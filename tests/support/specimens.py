"""States of the kinds that no strategy makes: odd layouts, foreign objects, what training keeps."""

from __future__ import annotations

import copyreg
import datetime
import decimal
import fractions
import functools
import io
import math
import pathlib
import random
import re
import sys
import threading
import types
import uuid
import weakref
from collections import ChainMap, OrderedDict
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from tests.support.states import Colour, Pair, Record, Reduced, Slotted, Stateful, Subclass, dtypes
from tests.support.tensors import TENSORS, Wrapper, bits, fake, same_memory_of_two_dtypes


class Sized(int):
    """An int with an attribute."""


class Noted(OrderedDict):
    """A state dict of a kind of its own."""


class Registered:
    """Pickles by a function in `copyreg`."""

    def __init__(self, held: Any) -> None:
        self.held = held


copyreg.pickle(Registered, lambda one: (Registered, (one.held,)))

OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and kind is not torch.optim.Optimizer
)
SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": lambda of: torch.optim.lr_scheduler.StepLR(of, 2),
    "cosine": lambda of: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(of, 3),
    "one cycle": lambda of: torch.optim.lr_scheduler.OneCycleLR(of, 0.1, 10),
    "plateau": torch.optim.lr_scheduler.ReduceLROnPlateau,
    "lambda": lambda of: torch.optim.lr_scheduler.LambdaLR(of, functools.partial(math.pow, 0.5)),
    "chained": lambda of: torch.optim.lr_scheduler.SequentialLR(
        of, [torch.optim.lr_scheduler.ConstantLR(of), torch.optim.lr_scheduler.ExponentialLR(of, 0.9)], [2]
    ),
}


def _model() -> nn.Module:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LSTM(4, 4), nn.MultiheadAttention(4, 2))
    model.register_buffer("scratch", torch.ones(2), persistent=False)
    model.add_module("tied", nn.Linear(4, 3))
    model.tied.weight = nn.Parameter(model[0].weight.detach().t())
    return model


def trained(name: str) -> torch.optim.Optimizer:
    """An optimizer that has made two steps, over what it can optimize."""
    torch.manual_seed(6)
    weights = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(2, 3))]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": 0.01}]
    kind = getattr(torch.optim, name)
    optimizer = kind(weights if name == "LBFGS" else groups, lr=0.02)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weights[0] @ weights[1]).square().sum()
        loss.backward()
        if name == "SparseAdam":
            for weight in weights:
                weight.grad = weight.grad.to_sparse()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    return optimizer


def _pruned() -> nn.Module:
    return prune.l1_unstructured(parametrizations.weight_norm(nn.Linear(2, 2)), "bias", 1)


def _random_states() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(8)
    return {
        "torch": torch.random.get_rng_state(),
        "generator": generator,
        "generator's": generator.get_state(),
        "python": random.Random(1).getstate(),
        "python's": random.Random(1),
        "numpy": np.random.RandomState(1).get_state(),
        "numpy's": np.random.default_rng(3).bit_generator.state,
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _everything_numpy() -> list[Any]:
    arrays = [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)), np.arange(9)[::-2], np.array(3.5)]
    arrays += [np.array(["a", "bcd"]), np.array([b"x"]), np.array([1, None, "x"], dtype=object)]
    arrays += [np.zeros(2, dtype=[("x", "<i4"), ("y", ">f8")]), np.array(["2026-11-24"], dtype="M8[D]")]
    arrays += [np.arange(3, dtype=">i2"), np.zeros((0, 4)), np.float16([np.nan, -0.0])]
    scalars = [np.bool_(True), np.int8(-3), np.float64(np.nan), np.longdouble(1) / 3, np.complex64(1j)]
    scalars += [np.str_("text"), np.bytes_(b"raw"), np.timedelta64(3, "s"), np.dtype("f4"), np.dtype("O")]
    return [*arrays, *scalars, arrays[0], np.float32]


def _foreign() -> list[Any]:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    now = datetime.datetime(2026, 11, 24, 1, 2, 3, 4, tzinfo=zone)
    return [
        decimal.Decimal("1.10"), fractions.Fraction(1, 3), uuid.UUID(int=5), pathlib.PurePosixPath("a/b"),
        re.compile("a+"), slice(1, None, 2), now, now.date(), now.time(), now - now, range(1, 9, 3),
        frozenset({1, (2, 3)}), bytearray(b"bytes"), types.SimpleNamespace(a=1), ChainMap({"a": 1}),
        ..., NotImplemented, Ellipsis, len, print, OrderedDict.fromkeys, torch.relu, nn.functional.relu,
        nn.Linear, ValueError("broken", 3), memoryview, complex(0, float("nan")), -0.0, 1 << 5000, -1,
    ]  # fmt: skip


def _objects() -> list[Any]:
    held = [torch.ones(2), {"key": (1, 2)}]
    slotted = Slotted(held)
    slotted.two = held[0]
    noted = Noted(weight=held[0])
    noted._metadata = OrderedDict({"": {"version": 2}})
    sized = Sized(7)
    sized.unit = "MB"
    partial = functools.partial(torch.add, alpha=2)
    pair = Pair(held, Colour.RED)
    return [pair, Record("r", held), slotted, Reduced(held), Stateful(held), Registered(held), noted, sized,
            partial, held, held, [held, held[0]]]  # fmt: skip


def _storages() -> dict[str, Any]:
    tensor = torch.arange(6, dtype=torch.int16)
    bytes_of = torch.arange(5, dtype=torch.uint8)
    return {
        "typed": tensor.storage(),
        "tensor of it": tensor[2:],
        "untyped": bytes_of.untyped_storage(),
        "view": bytes_of[1:3],
        "empty": torch.UntypedStorage(0),
        "legacy": torch.FloatStorage([1.0, 2.0]),
    }


def _torch_values() -> list[Any]:
    every_dtype = [*dtypes(), torch.quint8, torch.qint32]
    others = [torch.Size([]), torch.Size([3, 1]), torch.device("cuda:1"), torch.device("meta"), torch.strided]
    others += [torch.sparse_coo, torch.jagged]
    return [
        *every_dtype,
        *others,
        torch.per_tensor_affine,
        torch.finfo,
        torch.Tensor,
        Subclass,
        torch.nn.Module,
    ]


def _cycles() -> Any:
    parts: list[Any] = [torch.ones(1)]
    mapping: dict[str, Any] = {"parts": parts, "again": parts}
    mapping["me"] = mapping
    record = Record(mapping)
    record.parts = record
    tensor = torch.zeros(3)
    tensor.owner = record
    parts += [mapping, record, tensor, {"deep": [parts]}]
    return mapping


def _tuple_that_holds_itself() -> tuple[list[Any], int]:
    parts: list[Any] = []
    whole = (parts, 1)
    parts.append(whole)
    return whole


OBJECTS: dict[str, Callable[[], Any]] = {
    "cycles": _cycles,
    "a tuple that holds itself": _tuple_that_holds_itself,
    "a tuple that holds itself, and an object": lambda: [_tuple_that_holds_itself(), Record("r")],
    "a huge integer and bytes": lambda: [1 << 5000, b"bytes"],
    "the least integer of 255 bytes": lambda: [-(2**2039)],
    "deep": lambda: functools.reduce(lambda inner, _: [inner], range(100), []),
    "texts": lambda: ["", "\ud800\udfff", "\0", "é" * 70000, b"\xff" * 300, "a" * 256],
    "foreign objects": _foreign,
    "objects": _objects,
    "NumPy": _everything_numpy,
    "storages": _storages,
    "values of torch": _torch_values,
    "random states": _random_states,
    "module": _model,
    "module's state": lambda: _model().state_dict(),
    "module's parameters": lambda: [*_model().parameters(), dict(_model().named_parameters())],
    "parametrized module's state": lambda: _pruned().state_dict(),
    "exported parameters": lambda: nn.ParameterDict({"a": nn.Parameter(torch.ones(2)), "b": torch.zeros(1)}),
    "lazy module's state": lambda: nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d()).state_dict(),
    "lazy module": lambda: nn.LazyLinear(3),
    "scaler": lambda: torch.amp.GradScaler("cpu").state_dict(),
    "averaged module": lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)).state_dict(),
    **{
        f"{name}'s state": functools.partial(lambda name: trained(name).state_dict(), name)
        for name in OPTIMIZERS
    },
    **{
        f"state of the schedule {name}": functools.partial(
            lambda make: make(trained("SGD")).state_dict(), make
        )
        for name, make in SCHEDULERS.items()
    },
    "optimizer": lambda: trained("AdamW"),
    "schedule": lambda: SCHEDULERS["cosine"](trained("SGD")),
}
SPECIMENS = TENSORS | OBJECTS


class _Raising:
    def __reduce__(self):
        raise KeyError("no reduction")


def _local_instance() -> Any:
    class Local:
        pass

    return Local()


def _whole_and_imaginary_part() -> list[torch.Tensor]:
    whole = torch.ones(2, dtype=torch.cfloat)
    return [whole, whole.imag]


def _nested_too_deeply() -> list[Any]:
    return functools.reduce(lambda inner, _: [inner], range(100_000), [])


REFUSED: dict[str, Callable[[], Any]] = {
    "lambda": lambda: [lambda: 1],
    "local class": _local_instance,
    "lock": threading.Lock,
    "generator": lambda: (number for number in range(3)),
    "open file": lambda: io.BytesIO().getbuffer(),
    "Python module": lambda: {"module": math},
    "weak reference": lambda: weakref.ref(Record),
    "mock": mock.MagicMock,
    "what raises": _Raising,
    "raising beside tensors": lambda: {"weight": torch.ones(3), "other": _Raising()},
    "nested too deeply": _nested_too_deeply,
    "limits of a dtype": lambda: torch.finfo(torch.float32),
    "same memory of two dtypes": same_memory_of_two_dtypes,
    "imaginary part beside the whole": _whole_and_imaginary_part,
    "integers of four bits": lambda: bits(torch.int4),
    "meta storage": lambda: torch.ones(2, device="meta").untyped_storage(),
    "meta storage beside tensors": lambda: [torch.ones(2), torch.ones(2, device="meta").untyped_storage()],
    "storage without memory": lambda: Wrapper(torch.ones(2), torch.ones(2)).untyped_storage(),
    "fake": fake,
    "fake parameter": lambda: nn.Parameter(fake()),
    "opaque": lambda: torch.ones(3, 3).to_mkldnn(),
}
if sys.version_info < (3, 13):  # whose pickle finds the module of such a value
    REFUSED["memory format"] = lambda: torch.channels_last
