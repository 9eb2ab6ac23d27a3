"""What a part of a pickle is called in the tree, and which plain value an object stands for."""

from typing import Any

from marlin_ckpt.formats.content.node import NodeKind
from marlin_ckpt.formats.pickle import labels
from marlin_ckpt.formats.pickle.labels import name_text
from marlin_ckpt.formats.pickle.modules import MAPPINGS
from marlin_ckpt.formats.pickle.plain import latin_1_of, plain_of
from marlin_ckpt.formats.pickle.stubs import Stub

_KINDS: dict[type[Any], NodeKind] = {
    dict: NodeKind.MAPPING,
    list: NodeKind.LIST,
    tuple: NodeKind.TUPLE,
    set: NodeKind.LIST,
}


def plain_object(stub: Stub) -> Any:
    """The plain value that an object stands for where pickle has no opcode for it; else the object."""
    data = latin_1_of(stub)
    if data is None:
        return plain_of(stub)
    if len(data) > labels.SHORT:
        return stub
    return data.encode("latin-1", "replace") if isinstance(data, str) else data


def room(text: str) -> int:
    """How many bytes of memory a text takes."""
    return len(text) if text.isascii() else 4 * len(text)


def is_code(text: str) -> bool:
    """Whether it is the code of one of numpy's dtypes, `f8`, and no text of any length."""
    return text.isalnum() and len(text) <= labels.MOST_SHOWN


def what(value: Any) -> tuple[NodeKind, str]:
    """What a container is, and what to call it."""
    if type(value) is not Stub:
        return _KINDS.get(type(value), NodeKind.OBJECT), ""
    if value.name in MAPPINGS:
        return NodeKind.MAPPING, value.name[1]
    arguments = value.arguments
    if value.name == ("_codecs", "encode") and arguments and isinstance(arguments[0], str):
        return NodeKind.OBJECT, f"{len(arguments[0])} bytes"
    shown = [*map(labels.value_text, arguments[: labels.MOST_SHOWN])]
    shown += ["..."] * (len(arguments) > labels.MOST_SHOWN)
    return NodeKind.OBJECT, name_text(value) + (f"({', '.join(shown)})" if shown else "")
