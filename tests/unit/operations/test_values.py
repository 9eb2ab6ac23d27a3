"""`diff` compares the types and the complete values of all that is no tensor, whatever is shown of them."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import io
import itertools
import pathlib
import pickle
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from marlin_ckpt import errors
from marlin_ckpt.formats.values.distribution import checked_distributions
from marlin_ckpt.operations import diff
from marlin_ckpt.operations.one import opened
from tests.support.state_files import write_state, write_states


@dataclasses.dataclass
class Settings:
    rate: float = 0.1
    names: tuple[str, ...] = ("a",)


class Mode(enum.Enum):
    TRAIN = 1
    TEST = 2


def nested(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def ring(value: Any) -> dict[str, Any]:
    made = {"value": value}
    made["self"] = made
    return made


def objects(*values: Any) -> np.ndarray:
    made = np.empty(len(values), object)
    made[:] = values
    return made


RECORD = [("a", "i4"), ("b", "f8")]
PAIRS = {
    "arrays": (np.zeros(6), np.ones(6)),
    "last element of a long array": (np.zeros(5000), np.array([0.0] * 4999 + [1.0])),
    "array of another dtype": (np.zeros(3, "f4"), np.zeros(3, "f8")),
    "array of another shape": (np.zeros((2, 3)), np.zeros((3, 2))),
    "array and tensor": (np.zeros(3, "f4"), torch.zeros(3)),
    "big endian": (np.array([1, 2], ">i4"), np.array([1, 3], ">i4")),
    "array of texts": (np.array(["a", "b"]), np.array(["a", "c"])),
    "array of bytes": (np.array([b"a", b"b"]), np.array([b"a", b"c"])),
    "structured": (np.zeros(2, RECORD), np.array([(0, 0), (0, 1)], RECORD)),
    "names of fields": (np.zeros(2, RECORD), np.zeros(2, [("a", "i4"), ("c", "f8")])),
    "objects": (objects(1, "a"), objects(1, "b")),
    "containers as objects": (objects([1, {}], None), objects([1, {"b": 1}], None)),
    "times": (np.array(["2024-01-01"], "M8[ns]"), np.array(["2024-01-02"], "M8[ns]")),
    "units of times": (np.array([1], "m8[s]"), np.array([1], "m8[ms]")),
    "numpy number": (np.float64(0.5), np.float64(0.25)),
    "type of a numpy number": (np.float64(0.5), 0.5),
    "width of a numpy number": (np.float32(0.5), np.float64(0.5)),
    "numpy boolean": (np.True_, True),
    "long double": (np.longdouble(1), np.longdouble(2)),
    "random state": (np.random.RandomState(1).get_state(), np.random.RandomState(2).get_state()),
    "generator": (np.random.default_rng(1), np.random.default_rng(2)),
    "random module": (random.Random(1).getstate(), random.Random(2).getstate()),
    "bytes": (bytes(100), bytes(99) + b"\1"),
    "bytes and text": (b"a", "a"),
    "long texts": ("a" * 5000 + "b", "a" * 5000 + "c"),
    "huge integers": (1 << 300, (1 << 300) + 1),
    "sign of a huge integer": (1 << 300, -(1 << 300)),
    "paths": (pathlib.PurePosixPath("/" + "a" * 50 + "/b"), pathlib.PurePosixPath("/" + "a" * 50 + "/c")),
    "paths of many parts": (pathlib.PurePosixPath(*"abcdefghijk"), pathlib.PurePosixPath(*"abcdefghijl")),
    "decimals": (decimal.Decimal("1." + "0" * 60 + "1"), decimal.Decimal("1." + "0" * 60 + "2")),
    "keys": ({1: "a"}, {"1": "a"}),
    "keys of tensors": ({1: torch.zeros(2)}, {"1": torch.zeros(2)}),
    "a key in a dict of tensors": ({"a": {True: torch.zeros(2)}}, {"a": {"True": torch.zeros(2)}}),
    "integer and boolean": (1, True),
    "integer and float": (1, 1.0),
    "sign of zero": (0.0, -0.0),
    "list and tuple": ([1, 2], (1, 2)),
    "list and tuple of tensors": ([torch.zeros(1)], (torch.zeros(1),)),
    "set and frozenset": ({1, 2}, frozenset({1, 2})),
    "set and list": ({1}, [1]),
    "sets": ({"a", "b"}, {"a", "c"}),
    "sets of tuples": ({(1, 2), (3, 4)}, {(1, 2), (3, 5)}),
    "empty list and tuple": ([], ()),
    "dict and defaultdict": ({"a": 1}, collections.defaultdict(int, {"a": 1})),
    "default of a defaultdict": (collections.defaultdict(int), collections.defaultdict(float)),
    "counters": (collections.Counter("aab"), collections.Counter("abb")),
    "vocabularies": ({f"w{n}": n for n in range(2000)}, {**{f"w{n}": n for n in range(2000)}, "w7": 8}),
    "dataclasses": (Settings(), Settings(0.2)),
    "long list in an object": (Settings(names=("a",) * 99), Settings(names=("a",) * 98 + ("b",))),
    "members of an enum": (Mode.TRAIN, Mode.TEST),
    "dates": (datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)),
    "identifiers": (uuid.UUID(int=1), uuid.UUID(int=2)),
    "ranges": (range(10), range(11)),
    "slices": (slice(0, 10), slice(0, 11)),
    "classes": (Settings, Mode),
    "complex numbers": (1 + 2j, 1 - 2j),
    "devices": (torch.device("cpu"), torch.device("cuda:0")),
    "sizes": (torch.Size([1, 2]), (1, 2)),
    "sparse tensors": (torch.eye(2).to_sparse(), (2 * torch.eye(2)).to_sparse()),
    "nested deep": (nested(300, 1), nested(300, 2)),
    "rings": (ring(1), ring(2)),
    "none and a text": (None, "None"),
}  # fmt: skip


def compare(a: Path, b: Path, **options) -> diff.Comparison:
    with opened(str(a)) as before, opened(str(b)) as after:
        return diff.compare(before, after, **options)


def told(a: Path, b: Path) -> list[tuple[str, str, str]]:
    return [(one.name, one.before, one.after) for one in compare(a, b).values]


@pytest.mark.parametrize("title", PAIRS)
def test_two_values_differ_and_copies_are_the_same(tmp_path, title):
    one, other = PAIRS[title]
    a, b = write_states(tmp_path, {"w": torch.ones(2), "value": one}, {"w": torch.ones(2), "value": other})
    copy = write_state(tmp_path, {"w": torch.ones(2), "value": pickle.loads(pickle.dumps(one))}, "copy.pt")
    assert compare(a, a).is_same
    assert compare(a, copy).is_same
    found = compare(a, b)
    assert not found.is_same
    assert not compare(b, a).is_same
    assert all(one.before != one.after for one in found.values)


@pytest.mark.parametrize("title", PAIRS)
def test_a_copy_by_another_protocol_is_the_same(tmp_path, title):
    state = {"w": torch.ones(2), "value": PAIRS[title][0]}
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt", pickle_protocol=4)
    torch.save(state, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    torch.save(state, tmp_path / "d.pt", pickle_protocol=5)
    for other in ("b.pt", "c.pt", "d.pt"):
        assert compare(tmp_path / "a.pt", tmp_path / other).is_same, other


def test_a_change_is_told_once_and_where_it_is(tmp_path):
    def state(value: Any) -> dict[str, Any]:
        return {"a": {"b": [torch.ones(1), {"c": value}]}, "d": Settings()}

    assert told(*write_states(tmp_path, state(1), state(2))) == [("a.b[1].c", "1", "2")]
    assert told(*write_states(tmp_path, state(torch.ones(1)), state(torch.zeros(1)))) == []
    assert told(*write_states(tmp_path, {"x": {1: 0, "b": 1}}, {"x": {"1": 0, "b": 1}})) == [
        ("x", "a dict with the keys 1, 'b'", "a dict with the keys '1', 'b'")
    ]


def test_what_looks_alike_is_told_apart_by_its_type_or_its_digest(tmp_path):
    assert told(*write_states(tmp_path, {"x": np.float64(0.5)}, {"x": 0.5})) == [
        ("x", "0.5 (numpy.float64)", "0.5 (float)")
    ]
    ((name, before, after),) = told(*write_states(tmp_path, {"x": bytes(100)}, {"x": bytes(99) + b"\1"}))
    assert name == "x"
    assert before.startswith("100 bytes (SHA-256 ")
    assert after.startswith("100 bytes (SHA-256 ")
    assert before != after


def test_two_sets_of_texts_are_the_same_in_whatever_order_their_writers_had_them(tmp_path):
    def meeting(what: Callable[[str], Any]) -> list[Any]:
        """Three that a set of less than five has in the order of their coming: they begin at one place."""
        found = (what(str(number)) for number in itertools.count())
        return [*itertools.islice((one for one in found if hash(one) % 8 == 0), 3)]

    texts, pairs = meeting(str), meeting(lambda text: (text, text))
    before = {"s": set(texts), "t": set(pairs)}
    after = {"s": {*texts[::-1]}, "t": {*pairs[::-1]}}
    assert [[*one] for one in before.values()] != [[*one] for one in after.values()]
    one, other = write_states(tmp_path, before, after)
    assert one.read_bytes() != other.read_bytes()
    assert compare(one, other).is_same


def test_the_order_of_a_dict_and_whether_it_is_an_ordered_one_do_not_count(tmp_path):
    before = {"a": 1, "b": torch.ones(1)}
    after = collections.OrderedDict(b=torch.ones(1), a=1)
    assert compare(*write_states(tmp_path, before, after)).is_same


def test_one_array_in_two_places_is_the_same_as_two_arrays(tmp_path):
    array = np.arange(6.0)
    a, b = write_states(tmp_path, {"a": array, "b": array}, {"a": array, "b": array.copy()})
    assert compare(a, b).is_same


@pytest.mark.parametrize(
    "dtype", ["b1", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16", ">f4", ">i8", ">c16", "g"]
)
@pytest.mark.parametrize("order", "CF")
def test_arrays_are_shown_and_compared_as_tensors_are(tmp_path, dtype, order):
    array = np.asarray([[0, 1, 2], [3, 4, 5]]).astype(dtype).copy(order=order)
    changed = array.copy(order=order)
    changed[1, 2] = 0
    a, b = write_states(tmp_path, {"x": array}, {"x": changed})
    with opened(str(a)) as file:
        (tensor,) = file.contents.tensors
        (found,) = checked_distributions(file, [tensor])
    native = array.dtype.newbyteorder("=")
    assert (tensor.name, tensor.dtype, tensor.shape) == ("x", native.name, (2, 3))
    assert tensor.size_bytes == array.nbytes
    values = np.abs(array) if dtype in ("c8", "c16", ">c16") else array
    assert (found.statistics.minimum, found.statistics.maximum) == (values.min(), values.max())
    assert found.mean == pytest.approx(float(values.astype("f8").mean()))
    (one,) = compare(a, b).tensors
    assert (one.change, one.distance.differing, one.distance.maximum) == ("changed", 1, float(values[1, 2]))
    other = write_state(tmp_path, {"x": np.ascontiguousarray(array).astype(native)}, "native.pt")
    assert compare(a, other).is_same


def test_times_are_compared_by_their_count_and_what_is_none_is_not_finite(tmp_path):
    a, b = write_states(
        tmp_path, {"x": np.array([0, 10, 20], "m8[s]")}, {"x": np.array([0, 15, "NaT"], "m8[s]")}
    )
    with opened(str(b)) as file:
        (found,) = checked_distributions(file, file.contents.tensors)
    assert (found.tensor.dtype, found.statistics.maximum, found.statistics.nans) == ("timedelta64[s]", 15, 1)
    (one,) = compare(a, b).tensors
    assert (one.distance.differing, one.distance.not_finite, one.distance.maximum) == (2, 1, 5)


def test_a_damaged_byte_of_an_array_is_refused(tmp_path):
    path = write_state(tmp_path, {"x": np.frombuffer(b"marlin" * 20, "u1")})
    path.write_bytes(path.read_bytes().replace(b"marlinmarlin", b"marlinmarlim", 1))
    with pytest.raises(errors.CorruptCheckpointError, match="CRC"):
        compare(path, path)


def test_tensors_that_lie_too_deep_to_be_compared_are_refused(tmp_path):
    a, b = write_states(tmp_path, nested(300, torch.ones(1)), nested(300, torch.zeros(1)))
    with pytest.raises(errors.UnsafeCheckpointError, match="not compared"):
        compare(a, b)


def test_a_long_list_in_very_many_places_is_compared_once_and_written_out_within_bounds(tmp_path):
    long = [None] * 100_000
    a, b = write_states(tmp_path, [long] * 1_000, [])
    assert compare(a, a).is_same
    with pytest.raises(errors.UnsafeCheckpointError, match="refused as too large"):
        compare(a, b)


def test_a_pickle_of_python_2_has_its_arrays(tmp_path):
    # What NumPy 1 wrote there: texts are bytes, and the data is one of them.
    data = np.arange(3, dtype="<f8").tobytes()
    dtype = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I3\nt" + dtype
    array += b"I00\nU" + bytes([len(data)]) + data + b"tb"
    saved = io.BytesIO()
    torch.save({}, saved, _use_new_zipfile_serialization=False)
    whole = saved.getvalue()
    at = whole.index(b"\x80\x02}q\x00.", 40)
    assert whole.endswith(b"\x80\x02]q\x00.")
    (tmp_path / "a.pth").write_bytes(whole[:at] + b"\x80\x02}U\x01x" + array + b"s." + b"\x80\x02]q\x00.")
    with opened(str(tmp_path / "a.pth")) as file:
        (found,) = checked_distributions(file, file.contents.tensors)
    assert (found.tensor.name, found.tensor.dtype, found.statistics.maximum) == ("x", "float64", 2)
