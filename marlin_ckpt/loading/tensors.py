"""Compares saved tensors with the live ones that they are for, and counts what a conversion loses."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

_PLAIN = (torch.Tensor, torch.nn.Parameter)


class Target(NamedTuple):
    """A live tensor, and what is to be copied into it.

    Attributes:
        name: of both.
        saved: as the file has it; its bytes may not be there yet.
        live: that is written to.
    """

    name: str
    saved: torch.Tensor
    live: torch.Tensor


class Conversion(NamedTuple):
    """A saved tensor that becomes one of another dtype."""

    name: str
    saved: torch.Tensor
    dtype: torch.dtype

    def lost(self) -> int:
        """How many finite values are no longer finite as numbers of the other dtype."""
        if _most(self.dtype) >= _most(self.saved.dtype):
            return 0
        was, becomes = _isfinite(self.saved), _isfinite(self.saved.to(self.dtype))
        return int((was & ~becomes).sum())

    def may_be_out_of_range(self) -> bool:
        """Whether there are integers of the saved dtype that the other one does not have."""
        if not (_is_integer(self.saved.dtype) and _is_integer(self.dtype)):
            return False
        own, others = torch.iinfo(self.saved.dtype), torch.iinfo(self.dtype)
        return own.min < others.min or own.max > others.max

    def is_out_of_range(self) -> bool:
        """Whether there are such integers among the values."""
        if not self.saved.numel():
            return False
        wide, limits = self.saved.to(torch.int64), torch.iinfo(self.dtype)
        least, most = int(wide.min()), int(wide.max())
        if self.saved.dtype == torch.uint64 and least < 0:  # above 2^63
            return True
        return least < limits.min or most > limits.max


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a DTensor that this rank has; another tensor itself.

    Without an import of DTensor, which takes longer than many a load.
    """
    local = getattr(tensor, "_local_tensor", None)
    return local if isinstance(local, torch.Tensor) else tensor


def is_one(saved: Any, live: torch.Tensor) -> bool:
    """Whether the bytes of a saved tensor have been read to where those of a live one are."""
    if type(saved) not in {torch.Tensor, type(live)}:
        return False
    here, there = local_of(live), local_of(saved)
    return (
        type(there) is torch.Tensor
        and type(here) in {torch.Tensor, torch.nn.Parameter}
        and not (here.is_meta or here.is_nested)
        and here.layout == there.layout == torch.strided
        and here.data_ptr() == there.data_ptr() != 0
        and (here.dtype, here.shape, here.stride()) == (there.dtype, there.shape, there.stride())
    )


def fault(saved: Any, live: torch.Tensor) -> str:
    """Why a saved tensor cannot be copied into a live one, as the end of a sentence; "" where it can."""
    try:
        return _of_place(saved, live) or _of_values(saved, live) or _of_memory(live)
    except (RuntimeError, ValueError) as error:  # of tensors that have no shape or no memory yet
        return f"cannot be compared: {' '.join(str(error).split())}"


def _of_place(saved: torch.Tensor, live: torch.Tensor) -> str:
    if live.is_meta:
        return "is on the meta device here, where nothing can be loaded into it"
    if live.is_inference() and not torch.is_inference_mode_enabled():
        return "was made under torch.inference_mode here, and cannot be changed"
    return of_kind(saved, live)


def of_kind(saved: torch.Tensor, live: torch.Tensor | None) -> str:
    """Why a saved tensor has not the values that a live one has, or as None a dense one; "" where it has."""
    if saved.is_meta:
        return "has no values in the file, only a shape"
    kinds = _kind(saved), "a dense tensor" if live is None else _kind(live)
    return "is {} in the file, {} here".format(*kinds) if kinds[0] != kinds[1] else ""


def _kind(tensor: torch.Tensor) -> str:
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return f"a quantized tensor of {tensor.dtype}"
    return "a dense tensor" if tensor.layout is torch.strided else f"a tensor of layout {tensor.layout}"


def _of_values(saved: torch.Tensor, live: torch.Tensor) -> str:
    if not can_convert(saved.dtype, live.dtype):
        return f"is {saved.dtype} in the file, {live.dtype} here, which would lose its values"
    return ""


@functools.cache
def can_convert(saved: torch.dtype, dtype: torch.dtype) -> bool:
    """Whether a conversion loses digits at most: no fraction, no imaginary part."""
    if saved == dtype:
        return True
    try:  # there are dtypes, such as those of 4 bits, of which torch knows neither values nor limits
        lost = Conversion("", torch.zeros(1, dtype=saved), dtype).lost()
        return torch.can_cast(saved, dtype) and bool(_most(saved) and _most(dtype)) and not lost
    except (RuntimeError, TypeError):
        return False


def _of_memory(live: torch.Tensor) -> str:
    if type(live) not in _PLAIN or live.is_nested or live.layout is not torch.strided:
        return ""
    return "is expanded here: its elements share memory" if _overlaps_itself(live) else ""


def _overlaps_itself(live: torch.Tensor) -> bool:
    if live.is_contiguous():
        return False
    strides = sorted(
        (stride, size) for stride, size in zip(live.stride(), live.shape, strict=True) if size > 1
    )
    reach = 0
    for stride, size in strides:
        if stride <= reach:
            break
        reach += stride * (size - 1)
    else:
        return False
    if live.numel() > 1 + sum(stride * (size - 1) for stride, size in strides):
        return True
    places = torch.zeros((), dtype=torch.int64)
    for stride, size in zip(live.stride(), live.shape, strict=True):
        places = places.unsqueeze(-1) + torch.arange(size) * stride
    return len(set(places.reshape(-1).tolist())) < live.numel()


def sharing(targets: Iterable[Target]) -> list[list[Target]]:
    """The targets that share memory, as far as the file has not tied the same tensors in the same way.

    Returns:
        groups, in each of which `conflict` has to look at the values.
    """
    groups: dict[tuple[torch.device, int], list[Target]] = {}
    for one in targets:
        live = one.live
        if type(live) in _PLAIN and live.layout is torch.strided and not live.is_nested and live.numel():
            groups.setdefault((live.device, live.untyped_storage().data_ptr()), []).append(one)
    return [group for group in groups.values() if len(group) > 1 and _may_differ(group)]


def _may_differ(group: Sequence[Target]) -> bool:
    spans = sorted(_span(one.live) for one in group)
    if all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)):
        return False
    return len({_relation(one) for one in group}) > 1 or any(
        one.saved.stride() != one.live.stride() or one.saved.dtype != one.live.dtype for one in group
    )


def _span(live: torch.Tensor) -> tuple[int, int]:
    reach = sum(stride * (size - 1) for stride, size in zip(live.stride(), live.shape, strict=True))
    return live.data_ptr(), live.data_ptr() + (reach + 1) * live.element_size()


def _relation(one: Target) -> tuple[int, int]:
    """Is the same for targets that lie to each other in the file as they do here."""
    saved = one.saved
    if saved.layout is not torch.strided:
        return id(saved), 0
    moved = int(saved.storage_offset()) - int(one.live.storage_offset())
    return saved.untyped_storage()._cdata, moved  # noqa: SLF001


def conflict(group: Sequence[Target]) -> str:
    """Copies the saved tensors over one another as a load would, elsewhere, and looks whether each is whole.

    Returns:
        what is wrong, as a sentence; "" where all hold the same values in the memory that they share.
    """
    scratch = group[0].live.detach().untyped_storage().clone()  # type: ignore[no-untyped-call]
    views = []
    for one in group:
        live = one.live.detach()
        view = torch.empty(0, dtype=live.dtype, device=live.device)
        view.set_(scratch, live.storage_offset(), live.shape, live.stride())
        views.append(view)
    with torch.no_grad():
        for view, one in zip(views, group, strict=True):
            view.copy_(one.saved)
        for number, (view, one) in enumerate(zip(views, group, strict=True)):
            if not _same_bits(view, one.saved.to(view.device, view.dtype)):
                other = group[number + 1 if number + 1 < len(group) else 0]
                return f"{one.name} and {other.name} are two in the file, and share their memory here"
    return ""


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    rows = (
        part.resolve_conj().resolve_neg().reshape(-1).contiguous().view(torch.uint8) for part in (one, other)
    )
    return torch.equal(*rows)


def _is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _most(dtype: torch.dtype) -> float:
    """The greatest finite number of a dtype."""
    if dtype == torch.bool:
        return 1.0
    return float(torch.iinfo(dtype).max if _is_integer(dtype) else torch.finfo(dtype).max)


def _isfinite(values: torch.Tensor) -> torch.Tensor:
    if (
        values.dtype.itemsize == 1 and values.dtype.is_floating_point
    ):  # of 8 bits, for which torch has no test
        values = values.to(torch.float32)
    return torch.isfinite(values)
