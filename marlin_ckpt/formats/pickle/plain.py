"""The plain values that stubs stand for, where pickle has no opcode for them in every protocol."""

from typing import Any

from marlin_ckpt.formats.pickle.permissions import python_3_name
from marlin_ckpt.formats.pickle.stubs import Stub

# Names without their modules: of very many stubs no more is looked at.
_MAKE_BYTES = frozenset({"encode", "bytes"})
_MAKE_PLAIN = frozenset({"complex", "set", "frozenset", "Size"})


def is_bare(stub: Stub) -> bool:
    """Whether a stub is what a call returns, and nothing was done to it afterwards."""
    return stub.state is None and not stub.items and not stub.pairs


def latin_1_of(value: Any) -> str | bytes | None:
    """Bytes, or the text that is encoded as Latin-1 to make them, which takes no further memory.

    Returns:
        None for what stands for no bytes.
    """
    if type(value) is bytes:
        return value
    if type(value) is str:  # of Python 2, as `StubReader` for `read_contents` decodes it
        return value.encode("utf-8", "surrogateescape")
    if type(value) is not Stub or value.called.name[1] not in _MAKE_BYTES or not is_bare(value):
        return None
    match (*python_3_name(*value.name), value.arguments):
        case "_codecs", "encode", (str() as text, "latin1" | "latin-1"):
            return text
        case "builtins", "bytes", ():
            return b""
    return None


def plain_of(stub: Stub) -> Any:
    """The number, set or sizes that a stub stands for; else the stub."""
    if stub.called.name[1] not in _MAKE_PLAIN or not is_bare(stub):
        return stub
    match (*python_3_name(*stub.name), stub.arguments):
        case "builtins", "complex", (float() as real, float() as imaginary):
            return complex(real, imaginary)
        case "builtins", "set" | "frozenset", (list() as parts,):
            return parts
        case "torch", "Size", (tuple() as sizes,):
            return sizes
    return stub
