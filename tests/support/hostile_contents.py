"""Files that attack whoever looks into them: lies about tensors, and trees that never end."""

from __future__ import annotations

import struct

from tests.support import hostile_pickles as pickles
from tests.support.hostile_pickles import call, imported, number, state, storage, tensor, text, tuple_of
from tests.support.hostile_zips import Entry, Hostile, entries, zipped

_HUGE = b"\x8b" + struct.pack("<i", 60_000) + b"\x7f" * 60_000  # an integer of 800,000 bits
_OBJECT = imported("evil", "Thing") + b"q\x01"


def _doubled(depth: int, pair: bytes, start: bytes = b"]") -> bytes:
    """A structure of 2^depth parts: each level holds the one below twice, by a memo entry for each level."""
    return start + b"".join(b"q%c0" % level + pair % (level, level) for level in range(2, depth + 2))


def _mapping(pairs: bytes) -> bytes:
    return b"}(" + pairs + b"u"


def _nested(parts: int, value: bytes) -> bytes:
    """A value in mappings in mappings, each under a long name."""
    name = text("n" * 60_000) + b"q\x090"
    return name + (b"}h\x09") * parts + value + b"s" * parts


_MODULE = imported("torch.nn.modules.module", "Module") + b"q\x06"


def _attributes(parts: bytes) -> bytes:
    """Those of a module, each of whose states are the same."""
    return _mapping(b"".join(text(name) + parts for name in ("_parameters", "_buffers", "_modules")))


# In the memo: the function, the one that it is given, the class and the dtype of a wrapper.
_WRAPPED = (
    imported("torch._tensor", "_rebuild_from_type_v2") + b"q\x010"
    + imported("torch._utils", "_rebuild_wrapper_subclass") + b"q\x020"
    + imported("torch.distributed.tensor", "DTensor") + b"q\x030" + imported("torch", "float32") + b"q\x040"
)  # fmt: skip
# A dict of 60,000 places for a parameter, each of them empty.
_NOTHING = _MODULE + b"0" + _mapping(b"".join(number(one) + b"N" for one in range(60_000))) + b"q\x050"


PICKLES: dict[str, bytes] = {
    "a tensor of 10^18 elements": state(tensor(size=(10**9, 10**9), stride=(10**9, 1))),
    "10^18 elements in one place": state(tensor(size=(10**18,), stride=(0,))),
    "10^9 elements in one place": state(tensor(size=(10**9,), stride=(0,))),
    "a storage of 10^18 elements": state(tensor(stored=storage(numel=number(10**18)))),
    "10,000 nested lists": state(b"]" * 10_000 + b"a" * 9_999),
    "10,000 nested tuples of tensors": state(tensor() + b"\x85" * 10_000),
    "5,000 nested mappings": state((b"}" + text("a")) * 5_000 + tensor() + b"s" * 5_000),
    "lists shared 2^60 times": state(_doubled(60, b"](h%ch%ce")),
    "mappings shared 2^60 times": state(
        b"]" + b"".join(
            b"q%c0" % level + _mapping(b"K\x00h%cK\x01h%c" % (level, level)) for level in range(2, 62)
        )
    ),
    "objects shared 2^60 times": state(
        _OBJECT + b"0" + _doubled(60, b"h\x01(h%ch%ctR")
    ),
    "tensors of tensors shared 2^60 times": state(
        imported("torch._tensor", "_rebuild_from_type_v2") + b"q\x010]" + b"".join(
            b"q%c0h\x01(" % level + imported("torch._utils", "_rebuild_tensor_v2")
            + imported("torch", "Tensor")
            + tuple_of(storage(), number(0), tuple_of(number(4)), tuple_of(number(1)), b"\x89", b"}")
            + b"h%ch%c\x86" % (level, level) + b"tR" for level in range(2, 62)
        )
    ),
    "an object that holds itself": state(_OBJECT + b")Rq\x02}" + text("self") + b"h\x02sb"),
    "a mapping that holds itself": state(b"}q\x02" + text("self") + b"h\x02s"),
    "one long list in 100,000 places": state(
        b"](" + b"K\x01" * 60_000 + b"eq\x020](" + b"h\x02" * 60_000 + b"e"
    ),
    "one long list in 100,000 objects": state(
        _OBJECT + b"0](" + b"N" * 60_000 + b"eq\x020](" + b"h\x01h\x02\x85R" * 90_000 + b"e"
    ),
    "one object of a long list in 100,000 places": state(
        _OBJECT + b"0h\x01(" + b"N" * 60_000 + b"tRq\x020](" + b"h\x02" * 60_000 + b"e"
    ),
    "a vocabulary in 50,000 places": state(
        b"}(" + b"".join(number(one) + b"N" for one in range(50_000))
        + b"uq\x020](" + b"h\x02" * 50_000 + b"e"
    ),
    "a long name in 10,000 places": state(
        text("n" * 1_000_000) + b"q\x020](" + b"}h\x02]s" * 10_000 + b"e"
    ),
    "long names nested 100 deep": state(_nested(100, tensor())),
    "a name of 100,000 dots": state(tensor(), key=text("." * 60_000)),
    "10,000 names of 40 dots": state(
        b"}(" + b"".join(text(f"{one}." * 40) + tensor() for one in range(4_000)) + b"u"
    ),
    "names with ..": state(tensor(stored=storage(text("../../../etc/passwd"))), key=text("../../etc/passwd")),
    "a number between two names": state(_mapping(b"".join(text(f"[{one}]") + b"N" for one in range(50_000)))),
    "negative strides": state(tensor(stride=(-1,), offset=3)),
    "negative sizes": state(tensor(size=(-4, -4), stride=(1, 1))),
    "an offset beyond the storage": state(tensor(offset=2**40)),
    "an offset of 2^62": state(tensor(offset=2**62)),
    "a size of 2^62 beside one of none": state(tensor(size=(0, 2**62, 2**62), stride=(1, 1, 1))),
    "100 dimensions": state(tensor(size=(1,) * 100, stride=(0,) * 100)),
    "64 dimensions": state(tensor(size=(1,) * 64, stride=(2**62,) * 64)),
    "sizes of 800,000 bits": state(
        call(
            "torch._utils", "_rebuild_tensor_v2", storage(), _HUGE, tuple_of(_HUGE), tuple_of(_HUGE), b"\x89",
            b"}",
        )
    ),
    "integers of 800,000 bits": state(b"](" + _HUGE * 100 + b"e", key=_HUGE),
    "a type that nobody knows": state(tensor(stored=storage(kind="Int128Storage"))),
    "a dtype that nobody knows": state(
        call(
            "torch._utils", "_rebuild_tensor_v3", storage(kind="UntypedStorage"), number(0),
            tuple_of(number(4)),
            tuple_of(number(1)), b"\x89", b"}", imported("torch", "float\x1b[31m" + "9" * 60_000),
        )
    ),
    "a million opcodes": state(b"N0" * 500_000 + b"N"),
    "a million objects": state(_OBJECT + b"0](" + b"h\x01)R" * 150_000 + b"e"),
    "two million empty sets": state(b"](" + b"\x8f" * 2_000_000 + b"e"),
    "a million names": state(b"".join(imported("a", f"b{one}") + b"0" for one in range(50_000)) + b"N"),
    "an optimizer of lies": state(
        _mapping(
            text("state") + number(3) + text("param_groups")
            + b"](" + _mapping(text("lr") + tensor() + text("params") + _HUGE) + b"NK\x01e"
        )
    ),
    "an optimizer of 50,000 groups": state(
        _mapping(
            text("state") + b"}" + text("param_groups") + b"](" + (b"}" + text("lr") + b"Ns") * 50_000 + b"e"
        )
    ),
    "parameters of parameters": state(
        imported("torch._utils", "_rebuild_parameter") + b"q\x010" + b"h\x01" * 50_000 + tensor()
        + b"\x85R" * 50_000
    ),
    "keys of one hash": state(
        b"}(" + b"".join(number(one * pickles.PRIME) + b"N" for one in range(1, 50_001)) + b"u"
    ),
    "one attribute list in 30,000 distributed tensors": state(
        _WRAPPED + _mapping(b"".join(number(one) + b"N" for one in range(60_000))) + b"q\x050"
        + b"](" + (b"h\x01(h\x02h\x03(h\x03h\x04)tNh\x05\x86tR") * 30_000 + b"e"
    ),
    "distributed tensors of each other": state(
        _WRAPPED + b"Nq\x200](" + b"".join(
            b"h\x01(h\x02h\x03(h\x03h\x04)tNh%ch%c\x86\x86tRq%c" % (level - 1, level - 1, level)
            for level in range(33, 93)
        ) + b"e"
    ),
    "one dict of nothing in 30,000 modules": state(
        _NOTHING + b"](" + (b"h\x06)\x81" + _attributes(b"h\x05") + b"b") * 30_000 + b"e"
    ),
    "one state of nothing in 90,000 modules": state(
        _NOTHING + _attributes(b"h\x05") + b"q\x070](" + b"h\x06)\x81h\x07b" * 90_000 + b"e"
    ),
    "a module that holds itself": state(
        _MODULE + b"0h\x06)\x81q\x01" + _attributes(_mapping(text("self") + b"h\x01")) + b"b"
    ),
}  # fmt: skip


def _safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def outlines() -> list[Hostile]:
    """The files, of the group `looking`."""
    made = [Hostile(title, zipped(entries(data)), group="looking") for title, data in PICKLES.items()]
    huge = b"[" + b",".join([b"9" * 18] * 60) + b"]"
    place = b'"data_offsets":[0,4]'
    lies = {
        "safetensors: 10^1080 elements": b'{"a":{"dtype":"F32","shape":%b,%b}}' % (huge, place),
        "safetensors: a shape that does not fit": b'{"a":{"dtype":"F32","shape":[9],%b}}' % place,
        "safetensors: a type of its own": b'{"a":{"dtype":"\\u001b[31m","shape":[1],%b}}' % place,
        "safetensors: no shape": b'{"a":{"dtype":"F32",%b}}' % place,
        "safetensors: metadata of lists": b'{"__metadata__":[[]],"a":{"dtype":"F32","shape":[1],%b}}' % place,
    }
    made += [
        Hostile(title, _safetensors(header, bytes(4)), group="looking") for title, header in lies.items()
    ]
    span = b"B" + struct.pack("<I", 5_000) + bytes(5_000) + b"q\x020"
    bare = {
        "bare pickle: long bytes in 100,000 places": pickles.PROTOCOL
        + span
        + b"]("
        + b"h\x02" * 100_000
        + b"e.",
        "bare pickle: bytes of 2^63": pickles.PROTOCOL + b"\x8e" + b"\xff" * 7 + b"\x7f" + b"1234.",
    }
    made += [Hostile(title, data, group="looking") for title, data in bare.items()]
    classes = b"class Net(Module):\n  __parameters__ = []\n" * 100_000 + b"class Net(Module):\n  " * 100_000
    crowd = imported("__torch__", "Net") + b"q\x060" + _NOTHING + b"](" + b"h\x06)\x81h\x05b" * 90_000 + b"e"
    scripts = {
        "classes without end": state(imported("__torch__", "Net") + b")\x81}b"),
        "one state of nothing in 90,000 modules": state(crowd),
    }
    made += [
        Hostile(f"TorchScript: {title}", zipped([
            *entries(data), Entry(b"archive/constants.pkl", b"\x80\x02)."),
            Entry(b"archive/code/__torch__.py", classes),
        ]), group="looking")
        for title, data in scripts.items()
    ]  # fmt: skip
    two = [*entries(), Entry(b"archive/data/../data.pkl", bytes(16)), Entry(b"../../etc/passwd", bytes(4))]
    return [*made, Hostile("records with .. in their names", zipped(two), group="looking")]
