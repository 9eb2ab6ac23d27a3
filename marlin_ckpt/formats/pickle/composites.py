"""Tensors that are made of other tensors: distributed and quantized ones, and other subclasses of Tensor.

torch pickles a subclass that wraps other tensors as its dtype, its sizes and its attributes. Source:
`_rebuild_wrapper_subclass` in torch/_utils.py, DTensor in torch/distributed/tensor/_api.py, and
placement_types.py there, of torch 2.13; older versions have the same in torch/distributed/_tensor.
"""

from typing import Any, NamedTuple

from marlin_ckpt.formats.pickle.labels import MOST_SHOWN, value_text
from marlin_ckpt.formats.pickle.stubs import Global, Stub
from marlin_ckpt.formats.pickle.views import MOST_ARGUMENTS, MOST_WRAPPED, View, sizes_of, view_of
from marlin_ckpt.formats.values import dtypes

_MODULES = ("torch._utils", "torch._tensor")
_LONGEST = 60  # characters of the name of a class or dtype
_KEPT = ("Replicate", "Shard", "_StridedShard")  # placements that leave elements as they are
# Of a placement's state, the values that make its spelling, by the name of its class.
_SPELLED = {"Shard": "dim", "_StridedShard": "dim", "Partial": "reduce_op", "_Partial": "reduce_op"}


class Composite(NamedTuple):
    """A tensor that is made of others.

    Attributes:
        kind: the name of its class, `DTensor`.
        dtype: in torch's spelling.
        shape: its sizes; of a distributed tensor those of the whole.
        parts: what it is made of.
        about: how it is placed, in words; "" where it is not distributed.
        whole: the tensor that has all of its elements as they are; None where no other one has.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Any, ...]
    about: str = ""
    whole: View | None = None

    @property
    def label(self) -> str:
        """What it is, in words."""
        return f"{self.kind} of {self.dtype} {list(self.shape)}" + (f", {self.about}" if self.about else "")


def composite_of(value: Any) -> Composite | None:
    """Makes out a tensor that is made of others; None for anything else."""
    parts: tuple[Any, ...] = ()
    for _ in range(MOST_WRAPPED):
        if type(value) is not Stub or value.name[0] not in _MODULES:
            return None
        match value.name[1], value.arguments:
            case "_rebuild_parameter" | "_rebuild_parameter_with_state", (value, *_):
                pass
            case "_rebuild_from_type_v2", (Global() as function, _, tuple() as given, state) if (
                len(given) <= MOST_ARGUMENTS
            ):
                value = Stub(function, given)
                # Its attributes; of a class with slots those in slots beside them.
                parts += state if type(state) is tuple and len(state) <= MOST_ARGUMENTS else (state,)
            case "_rebuild_wrapper_subclass", (Global() as kind, Global() as dtype, sizes, *_):
                return _made(kind.name, dtype.name[1][:_LONGEST], sizes, parts)
            case _:
                return None
    return None


def _made(kind: tuple[str, str], dtype: str, sizes: Any, parts: tuple[Any, ...]) -> Composite | None:
    shape = sizes_of(sizes)
    if shape is None:
        return None
    if kind[1] == "DTensor":
        return _distributed(dtype, shape, parts)
    package = kind[0].partition(".")[0][:_LONGEST]
    return Composite(f"{package} {kind[1][:_LONGEST]}", dtype, shape, parts)


def _distributed(dtype: str, shape: tuple[int, ...], parts: tuple[Any, ...]) -> Composite:
    local = view_of(_attribute(parts, "_local_tensor"))
    spec = _attribute(parts, "_spec")
    state = spec.state if type(spec) is Stub else None
    placements = state.get("placements") if isinstance(state, dict) else None
    if not isinstance(placements, tuple) or not all(type(one) is Stub for one in placements[:MOST_SHOWN]):
        placements = ()
    about = ", ".join(map(_spelled, placements[:MOST_SHOWN])) or "placed in an unknown way"
    are_kept = 0 < len(placements) <= MOST_SHOWN and all(one.name[1] in _KEPT for one in placements)
    if local is not None and are_kept and local.shape == shape:
        return Composite("DTensor", dtype, shape, parts, about, local._replace(others=()))
    here = f", of which {list(local.shape)} are in this file" if local is not None else ""
    return Composite("DTensor", dtype, shape, parts, about + here)


def _attribute(parts: tuple[Any, ...], name: str) -> Any:
    return next((one[name] for one in parts if isinstance(one, dict) and name in one), None)


def _spelled(placement: Stub) -> str:
    name = placement.name[1][:_LONGEST]
    state = placement.state if isinstance(placement.state, dict) else {}
    value = state.get(_SPELLED.get(name, ""))
    return f"{name}({'' if value is None else value_text(value)})"


def quantizer_text(view: View) -> str:
    """How torch quantized a tensor, in words; "" where it did not."""
    if not dtypes.dtype(view.dtype).is_quantized:
        return ""
    match view.others:
        case (*_, (Global() as scheme, float() as scale, int() as zero_point)):
            return f"{scheme.name[1][:_LONGEST]}, scale {scale:g}, zero point {value_text(zero_point)}"
        case (*_, (Global() as scheme, _, _, int() as axis)):
            return f"{scheme.name[1][:_LONGEST]} along dimension {value_text(axis)}"
    return "quantized in an unknown way"
