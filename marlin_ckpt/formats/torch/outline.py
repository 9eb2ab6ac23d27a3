"""What of a state decides how it is pickled, found at a tenth of the price of that."""

import copyreg
import io
import pickle
import sys
from collections import OrderedDict
from typing import Any, NamedTuple, NoReturn

import torch
from torch.storage import TypedStorage, UntypedStorage

from marlin_ckpt.formats.torch.pickler import PROTOCOL, reduce_dict

# Strings that the pickler adds, and which may be the very objects that a state has: of one that is met again
# only a reference is pickled.
_PICKLERS_TEXTS = ("storage", "cpu", "latin1", *map(str, range(10)))
_MARK = (object, ())


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
    """Pickles all of a state but its tensors; None where that cannot be done, or would take long."""
    tensors: list[torch.Tensor] = []

    def reduce(tensor: torch.Tensor) -> tuple[Any, ...]:
        tensors.append(tensor)
        return _MARK

    file = io.BytesIO()
    pickler = pickle.Pickler(file, PROTOCOL)
    pickler.dispatch_table = {
        **copyreg.dispatch_table,
        OrderedDict: reduce_dict,
        torch.Tensor: reduce,
        torch.nn.Parameter: reduce,
        UntypedStorage: _refuse,
        TypedStorage: _refuse,
    }
    if (numpy := sys.modules.get("numpy")) is not None:
        pickler.dispatch_table[numpy.ndarray] = _refuse  # of any length
    try:
        pickler.dump((_PICKLERS_TEXTS, state))
    except Exception:  # noqa: BLE001 - whatever the state raises, it raises to the pickler, too
        return None
    return Outline(file.getvalue(), tensors)


def _refuse(_: Any) -> NoReturn:
    raise pickle.PicklingError
