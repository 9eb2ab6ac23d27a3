"""The unpickler of `weights_only` reads what torch's reads, and refuses what costs more than its length."""

from __future__ import annotations

import io
import os
import pickle
from collections import Counter, OrderedDict
from typing import Any

import pytest
import torch
from torch import _weights_only_unpickler as torchs

from marlin_ckpt.errors import CorruptCheckpointError, UnsafeCheckpointError
from marlin_ckpt.formats.budget import Budget, ExcessError
from marlin_ckpt.formats.pickle.stubs import StubReader
from marlin_ckpt.formats.torch import unpickling
from marlin_ckpt.formats.torch.reader import read_file
from marlin_ckpt.formats.torch.unpickling import Unpickler
from tests.support.hostile_files import legacy
from tests.support.hostile_pickles import (
    AMPLIFIED,
    PRIME,
    call,
    imported,
    number,
    state,
    storage,
    tensor,
    text,
    tuple_of,
)
from tests.support.hostile_zips import entries, zipped


def read(data: bytes) -> Any:
    return unpickling.load(io.BytesIO(data))


def pickled(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


class Added:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Added) and other.value == self.value

    __hash__ = object.__hash__


class AddedWithSetState(Added):
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.value = ("set", state["value"])


LARGE = {
    "a list of a million integers": list(range(1_000_000)),
    "a list of 300,000 lists": [[] for _ in range(300_000)],
    "100,000 pairs as keys": {(one, str(one)): None for one in range(100_000)},
    "200,000 keys of 64 bits": {(one + 1) * 0x9E3779B97F4A7C15: one for one in range(200_000)},
    "a key of 50 tuples in each other": {eval("(" * 50 + "1" + ",)" * 50): 1},
    "a set of 100,000": set(range(100_000)),
    "a counter": Counter("abracadabra" * 1000),
    "bytes of 3 MB": {"x": b"abc" * 1_000_000, "y": bytearray(b"abc" * 1000)},
    "an ordered dict with attributes": OrderedDict(a=1, b=[2.5, None, True, -(2**70)]),
}


@pytest.mark.parametrize("title", LARGE)
def test_large_states_of_plain_values_come_back(title):
    assert read(pickled(LARGE[title])) == LARGE[title]


@pytest.mark.parametrize("value", [Added([1]), AddedWithSetState(2)])
def test_a_class_that_the_user_allows_is_built_as_torch_builds_it(value):
    data = pickled(value)
    with pytest.raises(pickle.UnpicklingError, match=f"GLOBAL .*{type(value).__name__}"):
        read(data)
    with torch.serialization.safe_globals([type(value)]):
        assert read(data) == torchs.load(io.BytesIO(data))


def test_every_opcode_that_torch_reads_is_known_but_for_one_that_makes_nothing():
    known = {
        name for name in dir(torchs) if name.isupper() and isinstance(getattr(pickle, name, None), bytes)
    }
    missing = {name for name in known if getattr(pickle, name)[0] not in Unpickler.known}
    assert missing == {"EMPTY_SET"}


@pytest.mark.parametrize("title", [title for title in AMPLIFIED if "tensor" not in title])
def test_a_few_bytes_that_cost_much_are_refused(title):
    with pytest.raises(ExcessError):
        read(AMPLIFIED[title])


def test_keys_of_one_hash_are_refused_before_they_take_the_square_of_their_number_in_steps():
    keys = b"".join(number(one * PRIME) + b"N" for one in range(1, 20_001))
    with pytest.raises(ExcessError):
        read(state(b"}(" + keys + b"u"))


def test_an_object_that_is_copied_over_and_over_is_refused():
    once = text("x" * 1_000_000) + b"q\x01"
    again = (imported("_codecs", "encode") + b"h\x01" + text("latin1") + b"\x86R") * 100
    with pytest.raises(ExcessError):
        read(state(b"](" + once + again + b"e"))


def test_a_million_empty_sets_are_refused_before_they_fill_the_memory():
    file = io.BytesIO(b"\x80\x04(" + b"\x8f" * 1_000_000 + b"t.")
    with pytest.raises(ExcessError):
        StubReader(file, Budget(file.tell)).load()


@pytest.mark.parametrize(
    "value",
    [
        call("builtins", "bytearray", number(5)),
        call("_codecs", "encode", text("00"), text("hex")),
        call("collections", "OrderedDict", b"](" + tuple_of(number(1), number(2)) + b"e"),
        call("torch", "Tensor", number(5)),
        call("torch", "FloatTensor", number(5)),
        call("torch.storage", "UntypedStorage", number(5)),
        call("torch", "Size", text("ab")),
        call(
            "torch._tensor",
            "_rebuild_from_type_v2",
            imported("builtins", "bytearray"),
            b"N",
            tuple_of(number(5)),
            b"}",
        ),
    ],
)
def test_calls_that_no_pickler_writes_are_refused(value):
    with pytest.raises(ExcessError):
        read(state(value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02)",
        b"\x80\x02]K\x01s.",
        b"\x80\x02}K\x01a.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02(K\x01tQ.",
        b"\x80\x02h\x07.",
        b"\x80\x02K\x01)R.",
        b"\x80\x02]}b.",
        b"\x80\x02cos\nsystem\n)R.",
        b"\x80\x02\x8f.",
        b"\x80\x02c__builtin__\nset\n]\x81.",
    ],
)
def test_a_pickle_that_lies_raises_and_leaves_nothing_behind(data):
    with pytest.raises((pickle.UnpicklingError, EOFError, IndexError, KeyError, ValueError)):
        read(data)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_the_refusal_to_load_what_is_too_large_names_the_file_and_says_how_its_owner_loads_it(kind, tmp_path):
    costly = AMPLIFIED["tuples of 2^40 as a key"]
    path = tmp_path / "hostile.pt"
    path.write_bytes(zipped(entries(costly)) if kind == "zip" else legacy(costly))
    with pytest.raises(ExcessError, match="too large") as caught:
        read_file(path, weights_only=True, log=lambda _: None)
    assert (caught.value.where, "weights_only: false" in caught.value.hint) == (str(path), True)


FAR = number(0) + tuple_of(number(2**40)) + tuple_of(number(1))
PLACED = tuple_of(storage(), FAR)
HOOKS = call("collections", "OrderedDict")
REACHING = {
    "by its offset": tensor(offset=2**40),
    "by its strides": tensor(size=(4,), stride=(10**12,)),
    "by its size": tensor(size=(2**40,)),
    "by sizes in a list": call(
        "torch._utils", "_rebuild_tensor", storage(), number(0), b"](" + number(2**40) + b"e", b"]K\x01a"
    ),
    "by a dtype of its own": call(
        "torch._utils", "_rebuild_tensor_v3", storage(), number(0), tuple_of(number(4)), tuple_of(number(1)),
        b"\x89", HOOKS, imported("torch", "complex128"),
    ),
    "by a state": call("torch", "Tensor") + PLACED + b"b",
    "by a parameter's state": call("torch._utils", "_rebuild_parameter", tensor(), b"\x89", HOOKS)
    + PLACED
    + b"b",
}  # fmt: skip


@pytest.mark.parametrize("title", REACHING)
@pytest.mark.parametrize("weights_only", [True, False])
def test_a_tensor_that_reaches_beyond_its_storage_is_corrupt_and_no_lack_of_memory(
    title, weights_only, tmp_path
):
    path = tmp_path / "reaching.ckpt"
    path.write_bytes(zipped(entries(state(REACHING[title]))))
    with pytest.raises(CorruptCheckpointError, match=r"beyond its storage|not resizable"):
        read_file(path, weights_only=weights_only, log=lambda _: None)


def test_sizes_that_are_tensors_with_which_sums_overflow_are_corrupt(tmp_path):
    path = tmp_path / "overflowing.ckpt"
    sizes = tuple_of(tensor(size=(), stride=()))
    view = call(
        "torch._utils", "_rebuild_tensor_v2", storage(), number(0), sizes, tuple_of(number(1)), b"\x89", HOOKS
    )
    path.write_bytes(zipped(entries(state(view))))
    with pytest.raises(CorruptCheckpointError, match="sizes or strides are no integers"):
        read_file(path, weights_only=True, log=lambda _: None)


def test_a_record_of_another_size_than_its_storage_is_corrupt_where_code_is_allowed_too(tmp_path):
    path = tmp_path / "short.ckpt"
    objects = imported("argparse", "Namespace") + tensor(stored=storage(numel=number(8))) + b"\x86"
    path.write_bytes(zipped(entries(state(objects))))
    with pytest.raises(CorruptCheckpointError, match="record size"):
        read_file(path, weights_only=False, log=lambda _: None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weights_only", [True, False])
def test_a_tensor_of_several_elements_a_byte_does_not_reach_beyond_its_storage(weights_only, tmp_path):
    scales = torch.ones(6) / 10, torch.zeros(6)
    saved = torch.quantize_per_channel(torch.rand(6, 10), *scales, 0, torch.quint4x2)
    torch.save({"w": saved}, tmp_path / "packed.pt")
    state, _ = read_file(tmp_path / "packed.pt", weights_only=weights_only, log=lambda _: None)
    assert torch.equal(state["w"].dequantize(), saved.dequantize())


def test_what_torch_bars_is_refused_and_named_though_a_user_allows_it(tmp_path):
    torch.save([os.getpid], tmp_path / "barred.pt")
    with torch.serialization.safe_globals([os.getpid]), pytest.raises(UnsafeCheckpointError) as caught:
        read_file(tmp_path / "barred.pt", weights_only=True, log=lambda _: None)
    assert caught.value.names == ("posix.getpid",)
