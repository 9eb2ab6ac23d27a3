"""The record of statistics: what is written is read again, and a hostile one harms nobody."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt import errors
from marlin_ckpt.formats import statistics
from marlin_ckpt.formats.statistics import Columns, Statistics
from marlin_ckpt.formats.zip.writer import ContainerWriter
from marlin_ckpt.storage.local.files import open_source
from tests.unit.formats.test_container_writer import Memory

NUMBERS = st.floats()
ROWS = st.builds(Statistics, NUMBERS, NUMBERS, NUMBERS, st.integers(0, 1 << 70), st.integers(0, 1 << 70))


@given(st.dictionaries(st.text(), ROWS, max_size=20))
def test_what_is_written_is_read_again(found):
    data = statistics.to_json(found)
    json.loads(data, parse_constant=pytest.fail)  # JSON has no NaN
    assert repr(statistics.from_json(data).by_name()) == repr(found)  # in which NaN equals NaN


GOOD = {
    "format_version": 1, "names": ["a", "b"], "norm": [1.0, 2], "min": [0.5, "nan"], "max": [1, "inf"],
    "nan": [[1, 3]], "inf": [],
}  # fmt: skip


def test_keys_that_are_not_known_are_ignored():
    found = statistics.from_json(json.dumps({**GOOD, "median": 1}).encode()).by_name()
    assert found["a"] == Statistics(1.0, 0.5, 1.0)
    assert repr(found["b"]) == repr(Statistics(2.0, math.nan, math.inf, 3))


def test_a_record_of_a_later_format_says_nothing():
    assert statistics.from_json(b'{"format_version":2}') is None


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 0}, {"format_version": True}, {"format_version": "1"}, {"format_version": 1.0},
        {"names": [None, "b"]}, {"names": None}, {"names": ["a"]},
        {"names": ["a", 1]}, {"names": {"a": 1, "b": 2}}, {"norm": ["one", 1]}, {"norm": [True, 1]},
        {"norm": [[], 1]}, {"norm": [10**400, 1]}, {"min": {}}, {"min": [None, 1]}, {"max": None},
        {"nan": {"1": 1}}, {"nan": [[2, 1]]}, {"nan": [[-1, 1]]}, {"nan": [[0, 0]]},
        {"nan": [[0, 1.5]]}, {"nan": [[0]]},
        {"inf": [1, 2]}, {"inf": [[0, 1]] * 3}, {"inf": [[True, 1]]},
    ],
)  # fmt: skip
def test_a_record_of_other_types_is_refused(change):
    with pytest.raises(ValueError, match=r"\w"):
        statistics.from_json(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"format_version":1}', b"1" * 5_000]
)
def test_what_is_no_record_is_refused(data):
    with pytest.raises(ValueError):
        statistics.from_json(data)


def test_a_record_that_would_take_far_more_memory_than_its_length_is_refused():
    with pytest.raises(errors.UnsafeCheckpointError):
        statistics.from_json(b'{"names":[' + b"{},[]," * 2_000_000 + b"0]}")


def written(path, *records):
    target = Memory()
    writer = ContainerWriter(target)
    for name, data in records:
        writer.add(name, data)
    writer.close()
    path.write_bytes(bytes(target.content))
    return path


def read(path):
    with open_source(str(path)) as source:
        return statistics.read(source)


@pytest.mark.parametrize("other", [".marlin/statistics.json.old", "x/.marlin/statistics.json", "a"])
def test_the_record_is_found_by_its_whole_name(tmp_path, other):
    data = json.dumps(GOOD).encode()
    records = [("data.pkl", b"x"), (statistics.NAME, data), (other, b"{}"), (".marlin/manifest.json", b"{}")]
    assert read(written(tmp_path / "a.pt", *records)).by_name()["a"].norm == 1
    del records[1]
    assert read(written(tmp_path / "b.pt", *records)) is None


def test_a_folder_of_the_name_of_the_record_is_none(tmp_path):
    records = [("data.pkl", b"x"), (f"{statistics.NAME}/", b""), (".marlin/manifest.json", b"{}")]
    assert read(written(tmp_path / "a.pt", *records)) is None


def test_every_flipped_bit_of_the_record_is_noticed(tmp_path):
    data = json.dumps(GOOD).encode()
    path = written(tmp_path / "a.pt", ("data.pkl", b"x"), (statistics.NAME, data))
    whole = path.read_bytes()
    start = whole.index(data)
    for at in range(start, start + len(data)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(errors.CorruptCheckpointError, match=r"statistics\.json"):
            read(path)


def test_a_record_that_is_far_too_large_is_not_read(tmp_path):
    huge = bytes(statistics.MOST_BYTES + 1)
    path = written(tmp_path / "a.pt", ("data.pkl", b"x"), (statistics.NAME, huge))
    with pytest.raises(errors.UnsafeCheckpointError, match="too large"):
        read(path)


def test_a_truncated_file_and_one_of_another_kind_are_corrupt(tmp_path):
    path = written(tmp_path / "a.pt", ("data.pkl", b"x"), (statistics.NAME, json.dumps(GOOD).encode()))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(errors.CorruptCheckpointError):
        read(path)
    path.write_bytes(b"text")
    with pytest.raises(errors.CorruptCheckpointError):
        read(path)


def test_columns_of_one_state_keep_each_count_beside_its_tensor():
    found = {
        "optimizer.a": Statistics(1.0, 0.0, 1.0, 7, 0),
        "model.a": Statistics(2.0, 0.0, 2.0),
        "other": Statistics(3.0, 0.0, 3.0, 0, 9),
        "model.b": Statistics(4.0, 0.0, 4.0, 5, 6),
    }
    inner = Columns.of(found).within("model.")
    assert inner.by_name() == {"a": found["model.a"], "b": found["model.b"]}
    assert Columns.of(found).within("mode.") is None
    assert Columns.of({}).by_name() == {}
