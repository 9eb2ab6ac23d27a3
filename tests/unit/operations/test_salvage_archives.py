"""What is salvaged is of one archive, though a file holds the records of several."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path

import pytest
import torch

from marlin_ckpt import Checkpoint
from marlin_ckpt.cli.main import main
from marlin_ckpt.errors import BadFileError
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.operations.rescue.salvage import examine, salvage
from tests.support.sources import bytes_source
from tests.support.torch_records import records


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def place(data: bytes, tensor: torch.Tensor) -> int:
    return data.index(tensor.numpy().tobytes())


def test_a_tensor_that_is_lost_is_not_filled_from_another_archive_in_the_file(tmp_path, capsys):
    first, second = torch.full((1000,), 1.0), torch.full((1000,), 2.0)
    one = saved({"first": first, "kept": torch.arange(9.0)})
    row = flipped(one, place(one, first) + 400) + saved({"second": second}) + saved({"third": second})
    (tmp_path / "row.pt").write_bytes(row)
    assert main(["salvage", str(tmp_path / "row.pt"), "-o", str(tmp_path / "out.pt")]) == 3
    loaded = torch.load(tmp_path / "out.pt")
    assert list(loaded) == ["kept"]
    assert "it holds 3 archives; this is the first, the others are left out" in capsys.readouterr().err


def test_records_of_two_saves_that_nothing_ties_together_are_said_to_be_in_doubt(
    tmp_path, make_checkpointer, capsys
):
    files = []
    for value in (1.0, 2.0):
        state = {f"w{number}": torch.full((1000,), value) for number in range(6)}
        path = Path(make_checkpointer().save(Checkpoint(state), 0))
        files.append((path.read_bytes(), {name: start for name, (start, _) in records(path).items()}))
    (older, places), (newer, same) = files
    assert places == same
    cut, end = places["data/3"] - 64, places[".marlin/manifest.json"] - 64
    (tmp_path / "mixed.pt").write_bytes(newer[:cut] + older[cut:end])
    assert main(["salvage", str(tmp_path / "mixed.pt"), "-o", str(tmp_path / "1.pt"), "--json"]) == 3
    captured = capsys.readouterr()
    doubt = "nothing in it proves that all its records are of one save"
    assert json.loads(captured.out)["doubts"] == [doubt]
    # With the manifest it is known which of them are of its save.
    (tmp_path / "mixed.pt").write_bytes(newer[:cut] + older[cut : older.index(structures.CENTRAL_SIGNATURE)])
    found = salvage(str(tmp_path / "mixed.pt"), tmp_path / "2.pt")
    assert [one.record for one in found.lost] == ["data/0", "data/1", "data/2"]
    assert found.doubts == ()
    values = torch.load(tmp_path / "2.pt")["module_interface_state"].values()
    assert {value.item() for one in values for value in one} == {1.0}


def test_torchs_own_id_tells_the_records_of_one_save_from_those_of_two(tmp_path):
    one, other = (
        saved({f"w{number}": torch.full((500,), value) for number in range(4)}) for value in (1.0, 2.0)
    )
    end = one.index(structures.CENTRAL_SIGNATURE)
    (tmp_path / "a.pt").write_bytes(one[:end])
    assert salvage(str(tmp_path / "a.pt"), tmp_path / "1.pt").doubts == ()
    cut = place(one, torch.full((500,), 1.0)) + 2100
    (tmp_path / "a.pt").write_bytes(one[:cut] + other[cut:end])
    found = salvage(str(tmp_path / "a.pt"), tmp_path / "2.pt")
    assert found.doubts == ("nothing in it proves that all its records are of one save",)


def test_a_wrong_entry_of_the_directory_loses_nothing_where_torchs_id_holds(tmp_path):
    whole = saved({f"w{number}": torch.randn(40, 50) for number in range(8)})
    entry = whole.rindex(b"archive/data/5") - structures.CENTRAL_ENTRY.size
    (tmp_path / "a.pt").write_bytes(flipped(whole, entry + 16))
    found = salvage(str(tmp_path / "a.pt"), tmp_path / "out.pt")
    assert (found.lost, found.doubts) == ((), ())


def test_a_whole_archive_in_front_of_the_rest_of_an_older_one_is_found(tmp_path):
    older, newer = (
        saved({"w": torch.ones(9000), "last": torch.zeros(4)}),
        saved({"w": torch.full((30,), 2.0)}),
    )
    assert len(older) > len(newer)
    (tmp_path / "a.pt").write_bytes(newer + older[len(newer) :])
    salvage(str(tmp_path / "a.pt"), tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt")
    assert list(loaded) == ["w"]
    assert torch.equal(loaded["w"], torch.full((30,), 2.0))


def test_an_empty_record_proves_nothing(tmp_path):
    whole = saved({"w": torch.ones(500), "e": torch.empty(0), "x": torch.zeros(3)})
    end = whole.index(structures.CENTRAL_SIGNATURE)
    header = whole.index(b"archive/data/0") - structures.LOCAL_HEADER.size
    without = bytearray(whole[:end])
    without[header + 6] &= ~structures.HAS_DESCRIPTOR  # the header of a record of no length
    (tmp_path / "a.pt").write_bytes(without)
    found = salvage(str(tmp_path / "a.pt"), tmp_path / "out.pt")
    assert [one.tensors for one in found.lost] == [("w",)]
    assert list(torch.load(tmp_path / "out.pt")) == ["e", "x"]


def hostile(headers: int, descriptors: int, start: int) -> bytes:
    """Headers whose data starts at one place, and descriptors that all say that it starts there."""
    out = bytearray()
    for number in range(headers):
        name = b"a/%d" % number
        extra = start - len(out) - structures.LOCAL_HEADER.size - len(name)
        fixed = (structures.LOCAL_SIGNATURE, 0, 8, 0, 0, 0, 0, 0, 0, len(name), extra)
        out += structures.LOCAL_HEADER.pack(*fixed) + name
    out += bytes(start - len(out))
    for _ in range(descriptors):
        size = len(out) - start
        out += struct.pack("<4sLLL", structures.DESCRIPTOR_SIGNATURE, 1, size, size)
    return bytes(out)


def test_the_work_that_a_hostile_file_makes_is_in_proportion_to_its_length():
    counted: list[int] = []
    for factor in (1, 4):
        source = bytes_source(hostile(200 * factor, 3000 * factor, 8000 * factor))
        calls: list[str] = []
        sys.setprofile(lambda _frame, event, _, calls=calls: calls.append(event))
        try:
            with pytest.raises(BadFileError):
                examine(source)
        finally:
            sys.setprofile(None)
        counted.append(len(calls))
    assert counted[1] < 5 * counted[0]
