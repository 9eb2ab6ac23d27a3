"""Hypothesis strategies that make states: graphs of containers, values and tensors, and what they share."""

from __future__ import annotations

import collections
import dataclasses
import enum
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

BASE_BYTES = 96
Pair = collections.namedtuple("Pair", ["first", "second"])  # noqa: PYI024 - the kind that users still make


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Record:
    name: Any
    parts: Any = None


class Slotted:
    __slots__ = ("one", "two")

    def __init__(self, one: Any) -> None:
        self.one = one


class Reduced:
    """Says by itself how it is made again."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.made = True

    def __reduce__(self):
        return (Reduced, (self.held,))


class Stateful:
    """Keeps its parts under other names while it is pickled."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __getstate__(self):
        return {"kept": self.held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.held = state["kept"]


class Subclass(torch.Tensor):
    """A tensor that carries attributes."""


def dtypes() -> list[torch.dtype]:
    """All dtypes that a tensor over plain bytes can have, those that `torch.save` refuses included."""
    found = []
    for kind in sorted({one for one in vars(torch).values() if isinstance(one, torch.dtype)}, key=str):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.zeros(BASE_BYTES, dtype=torch.uint8).view(kind)
        except (RuntimeError, TypeError, NotImplementedError):
            continue
        if not str(kind).startswith("torch.q"):  # those need a quantizer, which a view does not have
            found.append(kind)
    return found


DTYPES = dtypes()


def _differentiable(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _with_attribute(tensor: torch.Tensor) -> torch.Tensor:
    marked = tensor.view_as(tensor)
    marked.mark = ["an attribute"]
    return marked


def _same_memory_again(tensor: torch.Tensor) -> torch.Tensor:
    """A second storage over the memory of the first, as `torch.frombuffer` makes it."""
    content = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    other = torch.from_numpy(content.numpy()).untyped_storage()
    place = tensor.storage_offset(), tensor.shape, tensor.stride()
    return torch.empty(0, dtype=tensor.dtype).set_(other, *place)


ARRANGEMENTS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda tensor: tensor,
    lambda tensor: tensor.view_as(tensor),
    lambda tensor: tensor.t() if tensor.dim() <= 2 else tensor,
    lambda tensor: tensor[..., ::2] if tensor.dim() else tensor,
    lambda tensor: tensor[-1:] if tensor.dim() else tensor,
    lambda tensor: tensor[0] if tensor.dim() and len(tensor) else tensor,
    lambda tensor: tensor[..., :0] if tensor.dim() else tensor,
    lambda tensor: tensor.unsqueeze(0).expand(3, *tensor.shape),
    lambda tensor: tensor.conj(),
    lambda tensor: torch._neg_view(tensor) if _differentiable(tensor) else tensor,
    lambda tensor: tensor.imag if tensor.is_complex() else tensor,
    lambda tensor: torch.nn.Parameter(tensor.detach(), requires_grad=_differentiable(tensor)),
    lambda tensor: torch.nn.Buffer(tensor.detach()),
    lambda tensor: tensor.detach().requires_grad_(_differentiable(tensor)),
    lambda tensor: tensor.as_subclass(Subclass),
    _with_attribute,
    _same_memory_again,
    lambda tensor: tensor.untyped_storage(),
]


@st.composite
def tensors(draw: st.DrawFn, dtype: st.SearchStrategy[torch.dtype]) -> list[Any]:
    """Some tensors over one storage of random bytes, NaNs of every payload among them."""
    kind = draw(dtype)
    content = draw(st.binary(min_size=BASE_BYTES, max_size=BASE_BYTES))
    flat = torch.frombuffer(bytearray(content), dtype=torch.uint8).clone().view(kind)
    columns = draw(st.sampled_from([1, 2, 3]))
    base = flat[: len(flat) // columns * columns].view(-1, columns)
    made: list[Any] = []
    for _ in range(draw(st.integers(1, 3))):
        tensor: Any = base
        for arrange in draw(st.lists(st.sampled_from(ARRANGEMENTS), max_size=3)):
            if isinstance(tensor, torch.Tensor):
                tensor = _tried(arrange, tensor)
        made.append(tensor)
    return made


def _tried(arrange: Callable[[torch.Tensor], Any], tensor: torch.Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what is experimental, once a process
        try:
            return arrange(tensor)
        except (RuntimeError, NotImplementedError, TypeError):  # not for this dtype
            return tensor


_TEXTS = st.text(st.characters(), max_size=4) | st.sampled_from(["\ud800", "a\0b", "名前", "w" * 300])
_KEYS = (
    _TEXTS
    | st.integers(-(2**70), 2**70)
    | st.booleans()
    | st.none()
    | st.binary(max_size=3)
    | st.floats(allow_nan=False)
    | st.tuples(st.integers(0, 300), st.text(max_size=2))
    | st.sampled_from([Colour.RED, Level.LOW, torch.float16, torch.Size([2, 3])])
)
PLAIN = (
    _KEYS
    | st.floats()
    | st.complex_numbers()
    | st.sampled_from([2**2038, -(2**2039), 2**3000, ..., torch.device("cpu"), torch.strided, range(3)])
    | st.binary(max_size=3).map(bytearray)
    | st.sampled_from([np.float32(1.5), np.datetime64("2026-01-01"), Counter("abca"), frozenset({1, 2})])
)


def _made_by(draw: st.DrawFn, pool: list[Any]) -> Any:
    part = st.sampled_from(pool)
    parts = draw(st.lists(part, max_size=4))
    keys = draw(st.lists(_KEYS, min_size=len(parts), max_size=len(parts)))
    pairs = list(zip(keys, parts, strict=True))
    makers: list[Callable[[], Any]] = [
        lambda: dict(pairs),
        lambda: list(parts),
        lambda: tuple(parts),
        lambda: OrderedDict(pairs),
        lambda: set(keys),
        lambda: defaultdict(list, pairs),
        lambda: deque(parts, maxlen=9),
        lambda: Pair(parts, keys),
        lambda: Record(keys, parts),
        lambda: Slotted(parts),
        lambda: Reduced(parts),
        lambda: Stateful(parts),
        lambda: np.array([*keys, None], dtype=object),
    ]
    # The first ones are what real states are made of, so most states have nothing else.
    return makers[draw(st.integers(0, 4) | st.integers(0, 4) | st.integers(0, len(makers) - 1))]()


@st.composite
def states(draw: st.DrawFn, dtype: st.SearchStrategy[torch.dtype] | None = None) -> Any:
    """A graph: later containers hold earlier ones, at times twice, and at times the other way about."""
    pool: list[Any] = draw(st.lists(PLAIN, min_size=1, max_size=3))
    for group in draw(st.lists(tensors(dtype or st.sampled_from(DTYPES)), max_size=2)):
        pool += group
    for _ in range(draw(st.integers(1, 5))):
        made = _made_by(draw, pool)
        pool.append(made)
        if draw(st.integers(0, 3)) == 0:  # a cycle, if what is older holds lists or dicts
            older = draw(st.sampled_from(pool))
            if type(older) is list:
                older.append(made)
            elif isinstance(older, dict) and type(older) is not Counter:
                older["cycle"] = made
            elif isinstance(older, Subclass):
                older.cycle = made
    return pool[-1]
