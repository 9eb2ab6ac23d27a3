"""What reading metadata takes is bounded in proportion to its length, for whoever reads it."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import pytest
import torch

from marlin_ckpt.errors import CorruptCheckpointError, UnsafeCheckpointError
from marlin_ckpt.formats.budget import Budget, ExcessError, check_json
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.content.summary import summarise
from marlin_ckpt.formats.content.tree import Builder
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.pickle import storages
from marlin_ckpt.formats.pickle.stubs import Global, Storage, StubReader
from marlin_ckpt.formats.torch import pickler, unpickling
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify
from marlin_ckpt.storage.local.files import open_source
from tests.support.hostile_pickles import call, imported, number, state, tensor, text, tuple_of
from tests.support.hostile_zips import entries, zipped

_MEGABYTE = 1 << 20
_HUGE = b"\x8b" + struct.pack("<i", 60_000) + b"\x7f" * 60_000  # an integer of 480,000 bits
_OBJECT = imported("evil", "Thing")
_ORDERED = imported("collections", "OrderedDict")
_LARGE = b"}(" + b"".join(number(one) + b"N" for one in range(20_000)) + b"u"
_NESTED = b")" + b"".join(b"q%ch%c\x86" % (level, level) for level in range(40))  # a tuple of 2^40 parts


def stubs(data: bytes) -> object:
    file = io.BytesIO(data)
    return StubReader(file, Budget(file.tell)).load()


def torchs(data: bytes) -> object:
    return unpickling.load(io.BytesIO(data))


def hostile(directory: Path, data: bytes, crc32: int | None = None) -> str:
    (directory / "hostile.pt").write_bytes(
        zipped(entries(data) if crc32 is None else entries(data, crc32=crc32))
    )
    return str(directory / "hostile.pt")


# A few bytes each, repeated, which would take a minute or a gigabyte if each cost what it does alone.
SHARED = {
    "a text as the arguments of many calls": (
        text("a" * _MEGABYTE) + b"q\x000" + _OBJECT + b"q\x010](" + b"h\x01h\x00R" * 300 + b"e"
    ),
    "a text as the arguments of many new objects": (
        text("a" * _MEGABYTE) + b"q\x000" + _OBJECT + b"q\x010](" + b"h\x01h\x00\x81" * 300 + b"e"
    ),
    "one long tuple as the arguments of many calls": (
        b"(" + b"N" * 60_000 + b"tq\x000" + _OBJECT + b"q\x010](" + b"h\x01h\x00R" * 10_000 + b"e"
    ),
    "two equal long texts as keys in turn": (
        (text("k" * _MEGABYTE) + b"q\x000" + text("k" * _MEGABYTE) + b"q\x010")
        + (b"}(" + b"h\x00Nh\x01N" * 10_000 + b"u")
    ),
    "one huge integer as a key many times": _HUGE + b"q\x000}(" + b"h\x00N" * 20_000 + b"u",
    "a tuple of huge integers as a key": (
        _HUGE + b"q\x000(" + b"h\x00" * 100 + b"tq\x010}(" + b"h\x01N" * 10_000 + b"u"
    ),
    "a tuple of 2^40 parts as a key": b"}" + _NESTED + b"Ns",
    "a tuple of 2^40 parts in a frozen set": b"(" + _NESTED + b"\x91",
    "long texts as the names of many imports": (
        text("m" * _MEGABYTE) + b"q\x000](" + b"h\x00h\x00\x93" * 10_000 + b"e"
    ),
    "seven million marks": b"(" * 7_000_000,
}  # fmt: skip


@pytest.mark.parametrize("title", SHARED)
def test_what_is_repeated_in_a_few_bytes_is_refused_before_it_costs_its_length_each_time(title):
    with pytest.raises(Exception, match=r"too large|no tuple"):
        stubs(state(SHARED[title]))


@pytest.mark.parametrize(
    "value",
    [
        b"](" + call("torch.serialization", "_get_layout", _NESTED) + b"e",
        b"](" + _LARGE + b"q\x00" + _ORDERED + b"q\x01" + b"h\x01)Rh\x00b" * 2_000 + b"e",
        b"}(" + b"".join(
            call("builtins", "complex", *(b"G" + struct.pack(">d", part) for part in (1000003.0 * one, -one)))
            + b"N" for one in range(30_000)
        ) + b"u",
    ],
    ids=["the hash of a layout's name", "attributes of many ordered dicts", "complex keys of one hash"],
)  # fmt: skip
def test_calls_that_weights_only_allows_are_refused_where_their_arguments_make_them_dear(value):
    with pytest.raises(ExcessError):
        torchs(state(value))


@pytest.mark.parametrize(
    "value",
    [
        _ORDERED + b")R](" + _NESTED + b"N\x86eb",
        tensor() + text("a" * 100) + b"b",
        _ORDERED + text("a" * 100) + b"R",
        imported("torch.nn.parameter", "Parameter") + b"]\x81",
    ],
    ids=["attributes of pairs", "a tensor's state of text", "arguments of text", "arguments of a list"],
)
def test_arguments_that_are_no_tuple_and_attributes_that_are_no_dict_are_refused(value):
    unpickler = unpickling.Unpickler(io.BytesIO(state(value)))
    bytes_of_four = torch.zeros(4).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=bytes_of_four, dtype=torch.float32, _internal=True)
    unpickler.persistent_load = lambda _: storage
    with pytest.raises(Exception, match=r"no tuple|no dict"):
        unpickler.load()


SHOWN = {
    "a long name above many values": (
        b"}" + text("n" * _MEGABYTE) + b"}(" + b"".join(number(one) + b"N" for one in range(900)) + b"us"
    ),
    "a long label in many places": (
        (b"(" + text("\u1234" * 40) * 8 + b"tq\x000(" + b"h\x00" * 8 + b"tq\x020")
        + (_OBJECT + b"q\x010](" + b"h\x01h\x02R" * 60_000 + b"e")
    ),
    "one dict as the state of many objects": (
        _LARGE + b"q\x000" + _OBJECT + b"q\x010](" + b"h\x01)Rh\x00b" * 10_000 + b"e"
    ),
    "a tensor of 64 dimensions in many places": (
        tensor(size=(1,) * 64, stride=(1,) * 64) + b"q\x000](" + b"h\x00" * 30_000 + b"e"
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", SHOWN)
def test_what_would_fill_memory_only_when_it_is_shown_is_refused_as_too_large_and_named(title, tmp_path):
    path = hostile(tmp_path, state(SHOWN[title]))
    refused = pytest.raises(UnsafeCheckpointError, match="refused as too large")
    with open_source(path) as source, refused as caught:
        read_contents(source)
    assert caught.value.where == path


def test_a_list_of_too_many_values_is_refused_before_any_of_them_is_made():
    placed: list[str] = []
    builder = Builder(lambda name, _: placed.append(name), Budget(lambda: 1_000))
    with pytest.raises(ExcessError, match="far more values"):
        builder.build([Storage(("storage", Global(("torch", "FloatStorage")), "0", "cpu", 4))] * 100_000)
    assert placed == []


def test_equal_large_values_in_many_places_are_not_compared_again_in_each(tmp_path):
    class Counted(dict):
        compared = 0

        def __eq__(self, other):
            Counted.compared += 1
            return dict.__eq__(self, other)

        __hash__ = None

    path = hostile(tmp_path, state(b"](" + _LARGE + _LARGE + b"q\x00" + b"h\x00" * 1_000 + b"e"))
    with open_source(path) as source:
        root = read_contents(source).root
    values = [node for node in root.children[0].children[0].children if node.value]
    counted = {id(node.value): Counted(node.value) for node in values}
    for node in values:
        node.value = counted[id(node.value)]
    summarise(root)
    assert (len(values), len(counted), Counted.compared) == (1_002, 2, 0)


def test_names_of_many_dots_make_no_more_branches_than_a_few_for_each_tensor(tmp_path):
    names = b"".join(text(f"{one}.2.3.4.5.6.7.8.9.a") + b"h\x00" for one in range(10_000))
    path = hostile(tmp_path, state(tensor() + b"q\x000}(" + names + b"u"))
    with open_source(path) as source:
        whole = summarise(read_contents(source).root)

    def count(branch) -> int:
        return 1 + sum(map(count, branch.children))

    assert whole.tensors == 10_000
    assert count(whole) < 80_000


def test_all_of_many_tensors_are_named_where_the_data_is_damaged_and_salvaged_but_for_the_damaged_one(cases):
    count = cases(8_000, 40_000)
    pickled = pickler.encode({f"layer.{one}.w": torch.zeros(1) for one in range(count)}).pickle
    names = storages.tensor_names(pickled)
    assert (len(names), names[str(count - 1)]) == (count, [f"layer.{count - 1}.w"])
    rest, lost = storages.without_records(pickled, ["1234"])
    assert lost == {"1234": ["layer.1234.w"]}
    assert len(rest) < len(pickled)


def test_what_salvage_cannot_afford_is_refused_and_not_called_lost():
    with pytest.raises(ExcessError, match="too large"):
        storages.without_records(state(SHARED["one huge integer as a key many times"]), ["0"])


def test_verify_names_no_tensors_of_a_damaged_file_whose_pickle_is_too_dear(tmp_path):
    found = verify(hostile(tmp_path, state(SHARED["one huge integer as a key many times"]), crc32=1))
    assert (found.status, found.tensors) == (Status.CORRUPT, ())


@pytest.mark.parametrize(
    "make",
    [  # not before it runs: that takes half a second of each worker
        lambda: b"{" + b",".join(b'"%d":0' % one for one in range(2_000_000)) + b"}",
        lambda: b'{"a":[' + b",".join([b"{}"] * 1_000_000) + b"]}",
    ],
    ids=["keys", "dicts"],
)
def test_a_safetensors_header_that_would_fill_the_memory_is_too_large_and_not_corrupt(make, tmp_path):
    header, path = make(), tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with open_source(str(path)) as source, pytest.raises(UnsafeCheckpointError, match="too large"):
        read_contents(source)
    assert verify(str(path)).status is not Status.CORRUPT


def test_a_manifest_that_would_fill_the_memory_is_too_large():
    with pytest.raises(UnsafeCheckpointError, match="too large"):
        Manifest.from_json(b'{"format_version":1,"records":[' + b",".join([b"[]"] * 2_000_000) + b"]}")


def test_json_of_long_texts_and_of_many_tensors_or_records_is_read():
    check_json(json.dumps({"__metadata__": {"workflow": '{"a": [1, 2], "b": {}},' * 100_000}}).encode())
    entry = {"dtype": "F32", "shape": [4, 4], "data_offsets": [1_000_000, 1_000_064]}
    check_json(json.dumps({f"layer.{one}.w": entry for one in range(100_000)}).encode())
    record = {"name": "a/data/1", "size": 8, "crc32": 1_000_000_000}
    check_json(json.dumps({"records": [record] * 200_000}).encode())


def test_an_unfinished_text_of_many_quotes_is_looked_at_once():
    check_json(b'{"a":"' + b'\\",' * 250_000)


def test_a_storage_key_of_a_legacy_file_that_is_no_text_is_corrupt(tmp_path):
    from tests.support.hostile_files import LEGACY_MAGIC, legacy

    whole = legacy(state(b"N"))
    path = tmp_path / "a.pt"
    path.write_bytes(whole[: whole.rindex(b"].")] + b"]" + _NESTED + b"a.")
    assert whole.startswith(LEGACY_MAGIC)
    with open_source(str(path)) as source, pytest.raises(CorruptCheckpointError):
        read_contents(source)


class Counted(list):
    """Counts how often it is gone over."""

    times = 0

    def __iter__(self):
        Counted.times += 1
        return super().__iter__()


def test_json_of_more_texts_than_can_be_told_apart_cheaply_is_judged_as_if_they_were_none():
    with pytest.raises(ExcessError):
        check_json(b"[" + b'"[[[[[",' * 500_001 + b"0]")


def test_what_many_shared_tuples_hold_is_looked_at_once_in_a_save():
    held = Counted([1, 2, 3])
    tuples = [(held, one) for one in range(200)]
    encoded = pickler.encode([tuples, list(tuples)])
    assert "a tuple that holds itself" not in encoded.unreadable
    assert Counted.times < 10


def test_a_tuple_that_holds_itself_is_found_beside_shared_ones_and_below_them():
    parts: list[object] = []
    itself = (parts, 1)
    parts.append(itself)
    shared = (["a"], itself)
    assert "a tuple that holds itself" in pickler.encode([shared, shared, (1, 2), itself]).unreadable
    assert not pickler.encode([(["a"], 1)] * 2).unreadable


def test_objects_by_name_and_by_value_are_written_again_as_they_were():
    value = (
        _OBJECT + tuple_of(number(1)) + b"R(" + number(2) + number(3) + b"e(" + text("k") + number(4) + b"u"
    )
    built = value + b"}" + text("s") + number(5) + b"sb"
    made = stubs(b"\x80\x02](" + built + _OBJECT + b")\x81e.")
    file = io.BytesIO()
    storages.StubWriter(file, 2).dump(made)
    again = stubs(file.getvalue())
    assert [(one.name, one.arguments, one.items, one.pairs, one.state, one.is_called) for one in again] == [
        (("evil", "Thing"), (1,), [2, 3], [("k", 4)], {"s": 5}, True),
        (("evil", "Thing"), (), [], [], None, False),
    ]  # fmt: skip
