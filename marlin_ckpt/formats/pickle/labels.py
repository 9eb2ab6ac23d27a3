"""Keys, names and values of a pickle in few characters, whatever a hostile one makes of them."""

from typing import Any

from marlin_ckpt.formats.pickle.plain import latin_1_of
from marlin_ckpt.formats.pickle.stubs import Global, Stub

PLAIN = (type(None), bool, int, float, str, bytes, complex)
SHORT = 40  # characters or bytes of a text
MOST_SHOWN = 8  # arguments of an object, or parts of a tuple
LONGEST_INTEGER = 256  # bits; Python takes the square of its length to spell one, and refuses long ones
_LONGEST_NAME = 100  # characters of each half of an imported name


def join(name: str, key: str) -> str:
    """The name of a part, from that of the whole and the part's key."""
    return f"{name}.{key}" if name and key and key[0] != "[" else name + key


def key_text(key: Any) -> str:
    """A key of a mapping as it stands in a name."""
    if type(key) is str:
        return key
    if type(key) is tuple and len(key) <= MOST_SHOWN:
        return f"({', '.join(map(value_text, key))})"
    return value_text(key)


def name_text(one: Global | Stub) -> str:
    """What is imported, `collections.OrderedDict`; names of any length are cut."""
    return ".".join(part[:_LONGEST_NAME] for part in one.name)


def value_text(value: Any) -> str:
    """A value in few characters."""
    data = latin_1_of(value) if type(value) is Stub else None
    if data is not None:
        start = data[: SHORT + 1]
        value = start.encode("latin-1", "replace") if isinstance(start, str) else start
    if type(value) in (Global, Stub):
        return name_text(value)
    if type(value) in (str, bytes):
        return repr(value[:SHORT]) + "..." * (len(value) > SHORT)
    if type(value) in PLAIN:
        return str(bounded(value))
    if isinstance(value, tuple) and len(value) <= MOST_SHOWN and all(type(one) in PLAIN for one in value):
        return f"({', '.join(map(value_text, value))})"
    return "..."


def bounded(value: Any) -> Any:
    """A plain value; of an integer that is too long to be spelled, only its length."""
    if type(value) is int and value.bit_length() > LONGEST_INTEGER:
        return f"an integer of {value.bit_length()} bits"
    return value
