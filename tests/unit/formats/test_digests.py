"""The record of digests: equal data has equal ones, other data has not, and a hostile record harms nobody."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt import errors
from marlin_ckpt.formats import digests, statistics
from marlin_ckpt.formats.digests import Digest, Digested, Digesting, Hashing, Origin
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.torch.pickler import encode
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify
from marlin_ckpt.formats.zip.reader import read_container
from marlin_ckpt.formats.zip.writer import BYTEORDER, write_state
from marlin_ckpt.operations.rescue.salvage import salvage
from marlin_ckpt.storage.local.files import open_source
from marlin_ckpt.storage.memory import MemoryTarget
from tests.support.sources import bytes_source
from tests.unit.formats.test_alignment import ABOUT
from tests.unit.formats.test_statistics_record import written

MIB = 1 << 20
ORIGIN = Origin("run", 7)
DATA = os.urandom(2 * MIB + 5)


def digest_of(data: bytes, step: int = 1 << 30) -> Digest:
    hashing = Hashing()
    for at in range(0, len(data), step):
        hashing.add(memoryview(data)[at : at + step])
    return hashing.digest()


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, MIB + 1, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1])
def test_a_digest_is_that_of_the_digests_of_pieces_of_1_mib_and_of_the_length(size):
    data = DATA[:size]
    pieces = [xxhash.xxh3_128_digest(data[at : at + MIB]) for at in range(0, size, MIB)]
    found = digest_of(data)
    assert found == (pieces[0], xxhash.xxh3_128_digest(b"".join(pieces) + size.to_bytes(8, "little")))
    assert found.first == digests.first_of(memoryview(data))
    assert digest_of(data, 100_003) == found  # in whatever pieces it comes


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1])
@given(bit=st.integers(0, 8 * (MIB - 1) - 1))
def test_any_flipped_bit_makes_another_digest(size, bit):
    data = bytearray(DATA[:size])
    data[bit // 8] ^= 1 << bit % 8
    other = digest_of(bytes(data))
    assert other.first != digest_of(DATA[:size]).first
    assert other.whole != digest_of(DATA[:size]).whole


def test_what_changes_behind_the_first_piece_changes_only_the_digest_of_the_whole():
    found, other = digest_of(DATA), digest_of(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    assert found.first == other.first
    assert found.whole != other.whole
    assert len({digest_of(bytes(size)).whole for size in (MIB, MIB + 1, 2 * MIB, 2 * MIB + 1)}) == 4


def saved(known=None, *observers):
    """A state in a file, with records of 4 bytes, 1 MiB less 4, 1 MiB, and 2 MiB and 4; and these."""
    encoded = encode([torch.full((count,), 1.0) for count in (1, (MIB >> 2) - 1, MIB >> 2, (MIB >> 1) + 1)])
    target = MemoryTarget()
    data = [(f"data/{key}", memory(one.data_ptr(), one.nbytes())) for key, one in encoded.storages.items()]
    observers = [*observers, Digesting(ORIGIN, known or {})]
    write_state(target, encoded.pickle, BYTEORDER, data, ABOUT, observers)
    return bytes(target.content()), [(name, bytes(one)) for name, one in data]


def test_a_file_holds_the_digests_of_records_of_1_mib_and_more():
    content, data = saved()
    wanted = {name: Digested(digest_of(one), ORIGIN) for name, one in data[2:]}
    assert digests.read(bytes_source(content)) == wanted
    assert [*wanted] == ["data/2", "data/3"]


def test_what_is_known_of_a_record_is_kept_and_its_data_is_not_looked_at():
    known = {"data/3": Digested(Digest(bytes(16), b"\xff" * 16), Origin("another", 3))}
    found = digests.read(bytes_source(saved(known)[0]))
    assert found["data/3"] == known["data/3"]
    assert found["data/2"].origin == ORIGIN


def test_statistics_and_digests_are_made_in_one_pass_and_neither_harms_the_file(tmp_path):
    kept = statistics.to_json({"a": statistics.Statistics(1.0, 0.0, 1.0)})
    looked: dict[str, int] = {}

    class Looking(statistics.Kept):
        def of(self, name, data):
            return lambda stored: looked.__setitem__(name, looked.get(name, 0) + len(stored))

    content, data = saved(None, Looking(kept))
    assert looked == {name: len(one) for name, one in data}
    labels = [one.label for one in read_container(bytes_source(content)).records]
    assert labels[-4:] == ["version", statistics.NAME, digests.NAME, ".marlin/manifest.json"]
    path = tmp_path / "model_1.pt"
    path.write_bytes(content)
    assert verify(str(path)).status is Status.INTACT
    assert torch.load(path, weights_only=True)[3].numel() == (MIB >> 1) + 1
    with open_source(str(path)) as source:
        assert statistics.read(source).names == ["a"]
        assert len(digests.read(source)) == 2


def test_salvage_loses_nothing_with_the_digests_and_leaves_them_out(tmp_path):
    content, data = saved()
    at = content.index(b'"origins"')
    (tmp_path / "a.pt").write_bytes(content[:at] + b"x" + content[at + 1 :])
    assert verify(str(tmp_path / "a.pt")).status is Status.CORRUPT
    assert salvage(str(tmp_path / "a.pt"), str(tmp_path / "b.pt")).lost == ()
    with open_source(str(tmp_path / "b.pt")) as source:
        assert digests.read(source) is None
        records = read_container(source).by_label
    assert {name: records[name].size for name, _ in data} == {name: len(one) for name, one in data}


BYTES = st.binary(min_size=16, max_size=16)
ROWS = st.builds(
    Digested,
    st.builds(Digest, BYTES, BYTES),
    st.builds(Origin, st.sampled_from(["a", "b\n", "\u00e9"]), st.integers(1, 3)),
)


@given(st.dictionaries(st.text(), ROWS, max_size=20))
def test_what_is_written_is_read_again(found):
    assert digests.from_json(digests.to_json(found)) == found


A, B = "0f" * 16, "10" * 16
GOOD = {
    "format_version": 1, "names": ["a", "b"], "first": [A, B], "all": [B, A], "origin": [1, 0],
    "origins": [["run", 1], ["other", 2]],
}  # fmt: skip


def test_keys_that_are_not_known_are_ignored():
    found = digests.from_json(json.dumps({**GOOD, "more": 1}).encode())
    digest = Digest(bytes.fromhex(A), bytes.fromhex(B))
    assert found["a"] == Digested(digest, Origin("other", 2))
    assert found["b"] == Digested(Digest(digest.whole, digest.first), Origin("run", 1))


def test_a_record_of_a_later_format_says_nothing():
    assert digests.from_json(b'{"format_version":2}') is None


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 0}, {"format_version": True}, {"format_version": "1"}, {"format_version": 1.0},
        {"names": None}, {"names": ["a"]}, {"names": ["a", 1]}, {"names": ["a", "a"]}, {"names": "ab"},
        {"first": [A, B.upper() + "0"]}, {"first": [A, A.upper()]}, {"first": [A, f" {A[1:]}"]},
        {"first": [A, f"{A}\n"]}, {"first": [A, 7]}, {"first": [A, B, A]}, {"all": None}, {"all": [A, [A]]},
        {"all": [A, "\u0660" * 32]},
        {"origin": [0, 2]}, {"origin": [0, -1]}, {"origin": [0, True]}, {"origin": [0, 1.0]}, {"origin": {}},
        {"origins": [["run", 1]]}, {"origins": [["run", 1], ["x", 0]]}, {"origins": [["x", 1], ["x", True]]},
        {"origins": [["run", 1], [1, 1]]}, {"origins": [["run", 1], ["x"]]}, {"origins": [["run", 1], "ab"]},
        {"origins": [["run", 1], ["x", 1, 1]]}, {"origins": {}},
    ],
)  # fmt: skip
def test_a_record_of_other_types_is_refused(change):
    with pytest.raises(ValueError, match=r"\w"):
        digests.from_json(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"format_version":1}', b"1" * 5_000]
)
def test_what_is_no_record_is_refused(tmp_path, data):
    with pytest.raises(ValueError):
        digests.from_json(data)
    path = written(tmp_path / "a.pt", ("data.pkl", b"x"), (digests.NAME, data))
    with open_source(str(path)) as source, pytest.raises(errors.CorruptCheckpointError):
        digests.read(source)


def test_a_record_that_would_take_far_more_memory_than_it_has_bytes_is_refused():
    with pytest.raises(errors.UnsafeCheckpointError):
        digests.from_json(b'{"names":[' + b"{},[]," * 2_000_000 + b"0]}")


def test_a_record_that_is_far_too_large_is_neither_read_nor_written(tmp_path, monkeypatch):
    huge = bytes(digests.MOST_BYTES + 1)
    path = written(tmp_path / "a.pt", ("data.pkl", b"x"), (digests.NAME, huge))
    with open_source(str(path)) as source, pytest.raises(errors.UnsafeCheckpointError, match="too large"):
        digests.read(source)
    monkeypatch.setattr(digests, "MOST_BYTES", 100)
    assert digests.read(bytes_source(saved()[0])) is None


def test_a_file_without_digests_has_none(tmp_path):
    path = written(tmp_path / "a.pt", ("data.pkl", b"x"))
    with open_source(str(path)) as source:
        assert digests.read(source) is None


def test_without_xxhash_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xxhash", None)
    for use in (Hashing, digests.check_installed, lambda: Digesting(ORIGIN, {})):
        with pytest.raises(errors.StorageError, match=r"needs xxhash.*\n?.*marlin-ckpt\[share\]"):
            use()
