"""What of a state decides how it is pickled, found at a tenth of the price of that."""

import copyreg
import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple, NoReturn

import torch
from torch.storage import TypedStorage, UntypedStorage

from marlin_ckpt.formats.torch.pickler import PROTOCOL, reduce_dict

# Strings that the pickler adds, and which may be the very objects that a state has: of one that is met again
# only a reference is pickled.
_PICKLERS_TEXTS = ("storage", "cpu", "latin1", *map(str, range(10)))
_MARK = (object, ())
_TRUSTED = sys.stdlib_module_names | {"torch"}
_OWN_CODE = ("__reduce_ex__", "__reduce__", "__getstate__")


class _Reducers(dict[type, Callable[[Any], Any]]):
    """Refuses arrays, of any length, and objects with code of others that says how they are pickled.

    It may do something, empty a buffer for one, and so has to run once for a save, not for its outline, too.
    """

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        registered = copyreg.dispatch_table.get(kind)
        if (numpy := sys.modules.get("numpy")) is not None and issubclass(kind, numpy.ndarray):
            return _refuse
        if any(map(_is_of_others, (registered, *(getattr(kind, name, None) for name in _OWN_CODE)))):
            return _refuse
        if registered is None:
            raise KeyError(kind)  # it is pickled as all objects are
        return registered


def _is_of_others(code: Any) -> bool:
    """Whether this is a function that comes neither with Python nor with torch."""
    return isinstance(code, FunctionType) and code.__module__.partition(".")[0] not in _TRUSTED


class Outline(NamedTuple):
    """A state without what its tensors are.

    Attributes:
        pickle: the state with marks in the places of tensors. Where it is the same, so are all plain values,
            the order of all dicts, and what is shared.
        tensors: each once, in the order met.
    """

    pickle: bytes
    tensors: list[torch.Tensor]


def outline(state: Any) -> Outline | None:
    """Pickles all of a state but its tensors; None where that cannot be done, would take long or do more."""
    tensors: list[torch.Tensor] = []

    def reduce(tensor: torch.Tensor) -> tuple[Any, ...]:
        tensors.append(tensor)
        return _MARK

    file = io.BytesIO()
    pickler = pickle.Pickler(file, PROTOCOL)
    pickler.dispatch_table = _Reducers(
        {
            OrderedDict: reduce_dict,
            torch.Tensor: reduce,
            torch.nn.Parameter: _refuse if torch.nn.Parameter in copyreg.dispatch_table else reduce,
            UntypedStorage: _refuse,
            TypedStorage: _refuse,
        }
    )
    try:
        pickler.dump((_PICKLERS_TEXTS, state))
    except Exception:  # noqa: BLE001 - whatever the state raises, it raises to the pickler, too
        return None
    return Outline(file.getvalue(), tensors)


def _refuse(_: Any) -> NoReturn:
    raise pickle.PicklingError
