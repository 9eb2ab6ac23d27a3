"""What is left of a damaged file is written to another, and never more."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from marlin_ckpt import Checkpoint
from marlin_ckpt.cli.main import main
from marlin_ckpt.errors import BadFileError, CorruptCheckpointError, MarlinError, StorageError
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.operations.rescue.salvage import salvage
from tests.support.torch_records import records

WEIGHTS = {f"layers.{number}.weight": torch.randn(40 + number, 50) for number in range(20)}
STATE = {
    "module_interface_state": WEIGHTS,
    "trainer_state": {"epoch": 3, "optimizers": [{"state": {0: {"exp_avg": torch.ones(300)}}}]},
    "trainer_backend_state": {"steps": 7, "tied": [WEIGHTS["layers.3.weight"], torch.arange(5)]},
}


@pytest.fixture(params=["ours", "by torch.save"])
def damaged(request, tmp_path, make_checkpointer) -> Path:
    path = tmp_path / "damaged.pt"
    if request.param == "ours":
        shutil.copy(make_checkpointer().save(Checkpoint(**STATE, metrics={"loss": 1.5}), 4), path)
    else:
        torch.save(STATE, path)
    return path


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def tensors(state, path="") -> dict[str, torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return {path: state}
    parts = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    found: dict[str, torch.Tensor] = {}
    for key, part in parts:
        found |= tensors(part, f"{path}/{key}")
    return found


def test_a_tensor_that_is_damaged_is_taken_out_and_named_and_the_rest_is_kept(damaged, tmp_path):
    start, _ = records(damaged)["data/5"]
    flip(damaged, start + 9)
    found = salvage(str(damaged), tmp_path / "out.pt")
    assert [(one.record, one.tensors) for one in found.lost] == [
        ("data/5", ("module_interface_state.layers.5.weight",))
    ]
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    expected = tensors(STATE)
    del expected["/module_interface_state/layers.5.weight"]
    assert tensors(loaded).keys() == expected.keys()
    assert all(torch.equal(one, expected[name]) for name, one in tensors(loaded).items())
    assert loaded["trainer_state"]["epoch"] == 3
    assert verify(str(tmp_path / "out.pt")).status is Status.INTACT


def test_what_shares_the_memory_of_a_lost_tensor_is_lost_with_the_dict_entry_that_holds_it(damaged, tmp_path):
    start, _ = records(damaged)["data/3"]
    flip(damaged, start)
    (lost,) = salvage(str(damaged), tmp_path / "out.pt").lost
    assert lost.tensors == ("module_interface_state.layers.3.weight", "trainer_backend_state.tied")
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert loaded["trainer_backend_state"] == {"steps": 7}


def test_a_file_cut_short_keeps_the_tensors_in_front_of_the_cut(damaged, tmp_path):
    start, size = records(damaged)["data/12"]
    os.truncate(damaged, start + size // 2)
    found = salvage(str(damaged), tmp_path / "out.pt")
    assert {one.record for one in found.lost} == {
        f"data/{number}" for number in range(12, 22)
    }  # 3 is tied, 20 and 21 are the others
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)["module_interface_state"]
    assert list(loaded) == [f"layers.{number}.weight" for number in range(12)]
    assert all(torch.equal(loaded[name], WEIGHTS[name]) for name in loaded)


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_nothing_is_lost_where_only_the_zip_directory_is(damaged, tmp_path, damage):
    data = damaged.read_bytes()
    at = data.index(structures.CENTRAL_SIGNATURE)
    damaged.write_bytes(data[:at] + (b"" if damage == "cut off" else bytes(len(data) - at)))
    assert salvage(str(damaged), tmp_path / "out.pt").lost == ()
    loaded = tensors(torch.load(tmp_path / "out.pt", weights_only=True))
    assert all(torch.equal(one, loaded[name]) for name, one in tensors(STATE).items())


def test_a_local_header_that_is_lost_as_well_as_the_directory_is_made_up_for_by_the_manifest(
    make_checkpointer, tmp_path
):
    path = Path(make_checkpointer().save(Checkpoint(**STATE), 4))
    start, size = records(path)["data/5"]
    data = bytearray(path.read_bytes())
    del data[data.index(structures.CENTRAL_SIGNATURE) :]
    data[start - 64 : start - 60] = bytes(4)
    data[start + size : start + size + 4] = bytes(4)
    path.write_bytes(data)
    assert salvage(str(path), tmp_path / "out.pt").lost == ()


def test_a_salvaged_file_says_of_itself_what_it_lacks(make_checkpointer, tmp_path, caplog):
    checkpointer = make_checkpointer()
    path = Path(checkpointer.save(Checkpoint(**STATE, metrics={"loss": 1.5}), 4))
    start, _ = records(path)["data/5"]
    flip(path, start)
    out = tmp_path / "rescued" / "model_4.pt"
    out.parent.mkdir()
    salvage(str(path), out)
    loaded = make_checkpointer(load_dir=str(out.parent)).load()
    assert loaded.metrics == {"loss": 1.5}
    assert "was salvaged and lacks module_interface_state.layers.5.weight." in caplog.text


def test_a_zip_inside_a_tensor_is_not_taken_for_the_file(make_checkpointer, tmp_path):
    inner = tmp_path / "inner.pt"
    torch.save({f"layers.{number}": torch.zeros(20) for number in range(3)}, inner)
    held = torch.frombuffer(bytearray(inner.read_bytes().replace(b"inner/", b"archi/")), dtype=torch.uint8)
    state = {"file": held, "a": torch.ones(20), "b": torch.ones(30)}
    path = Path(make_checkpointer().save(Checkpoint(state, {}, {}), 0))
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(structures.CENTRAL_SIGNATURE, 0, data.rindex(b"PK\x05\x06"))])
    os.truncate(path, records_end(data))
    found = salvage(str(path), tmp_path / "out.pt")
    assert found.lost == ()
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)["module_interface_state"]
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def records_end(data: bytes) -> int:
    """Where the zip directory starts, by the record at the file's end."""
    return int.from_bytes(data[-6:-2], "little")


def test_whatever_the_damage_no_salvaged_tensor_differs_from_what_was_saved(damaged, tmp_path, cases):
    whole = damaged.read_bytes()
    expected = tensors(STATE)
    rng = random.Random(7)
    kept = 0
    for number in range(cases(60, 5000)):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 40])):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    data[at : at + 512] = bytes(len(data[at : at + 512]))
                case 2:
                    other = rng.randrange(len(data))
                    data[at : at + 4096] = data[other : other + 4096]
                case _ if rng.random() < 0.1:
                    del data[at:]
        damaged.write_bytes(data or b"x")
        out = tmp_path / "out.pt"
        out.unlink(missing_ok=True)
        try:
            found = salvage(str(damaged), out)
        except MarlinError:
            assert not out.exists()
            continue
        loaded = tensors(torch.load(out, weights_only=True))
        lost = {name for one in found.lost for name in one.tensors}
        for name, one in loaded.items():
            assert torch.equal(one, expected[name]), (number, name)
        if not lost:
            assert loaded.keys() == expected.keys()
        kept += len(loaded)
    assert kept > 50


@pytest.mark.parametrize(
    "content", [b"", b"text\n", b"PK\x03\x04" + bytes(100), b"\x08\0\0\0\0\0\0\0{}      "], ids=repr
)
def test_what_is_no_torch_zip_gives_nothing_and_writes_nothing(tmp_path, capsys, content):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert main(["salvage", str(path), "-o", str(tmp_path / "out.pt")]) == 3
    assert "nothing can be salvaged" in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()


def test_without_the_record_that_says_what_the_others_are_nothing_can_be_salvaged(damaged, tmp_path):
    start, _ = records(damaged)["data.pkl"]
    flip(damaged, start)
    with pytest.raises(BadFileError, match=r"data\.pkl, which says what the others are, is lost"):
        salvage(str(damaged), tmp_path / "out.pt")


def test_a_file_that_is_there_is_never_written_over(damaged, tmp_path):
    (tmp_path / "out.pt").write_bytes(b"precious")
    for output in (tmp_path / "out.pt", damaged):
        before = output.read_bytes()
        with pytest.raises(StorageError, match="already there"):
            salvage(str(damaged), output)
        assert output.read_bytes() == before


def test_the_command_lists_what_is_lost_and_exits_3(damaged, tmp_path, capsys):
    start, _ = records(damaged)["data/5"]
    flip(damaged, start)
    assert main(["salvage", str(damaged), "-o", str(tmp_path / "out.pt")]) == 3
    captured = capsys.readouterr()
    assert captured.out == "lost  module_interface_state.layers.5.weight  (data/5)\n"
    assert "1 tensor lost" in captured.err
    assert main(["salvage", str(damaged), "-o", str(tmp_path / "2.pt"), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["lost"] == [{"record": "data/5", "tensors": ["module_interface_state.layers.5.weight"]}]
    assert main(["salvage", str(tmp_path / "out.pt"), "-o", str(tmp_path / "3.pt")]) == 0


def test_a_missing_file_exits_4(tmp_path):
    assert main(["salvage", str(tmp_path / "none.pt"), "-o", str(tmp_path / "out.pt")]) == 4


def test_what_is_intact_of_a_deflated_file_is_kept(damaged, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(damaged) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    damaged.write_bytes(buffer.getvalue())
    start, _ = records(damaged)["data/5"]
    flip(damaged, start + 9)
    found = salvage(str(damaged), tmp_path / "out.pt")
    assert [one.tensors for one in found.lost] == [("module_interface_state.layers.5.weight",)]
    loaded, expected = tensors(torch.load(tmp_path / "out.pt")), tensors(STATE)
    assert len(loaded) == len(expected) - 1
    assert all(torch.equal(one, expected[name]) for name, one in loaded.items())


def test_a_tensor_is_never_in_memory_as_a_whole(tmp_path):
    torch.save({"large": torch.arange(5_000_000.0), "small": torch.ones(5)}, tmp_path / "a.pt")
    os.truncate(tmp_path / "a.pt", (tmp_path / "a.pt").stat().st_size - 10)
    tracemalloc.start()
    try:
        assert salvage(str(tmp_path / "a.pt"), tmp_path / "out.pt").lost == ()
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()
    assert torch.equal(torch.load(tmp_path / "out.pt")["large"], torch.arange(5_000_000.0))


def rewritten(path: Path, state: object, change) -> Path:
    """Saves a state by torch, and changes its pickle without a checksum's noticing."""
    torch.save(state, path.with_suffix(".whole"))
    with zipfile.ZipFile(path.with_suffix(".whole")) as whole, zipfile.ZipFile(path, "w") as made:
        for name in whole.namelist():
            data = whole.read(name)
            made.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return path


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda data: data.replace(b"K\n\x85", b"Kc\x85"), "would not load, since w lacks elements"),
        (lambda data: data[:-20], "cannot be unpickled: it ends too early"),
    ],
    ids=["a tensor larger than its record", "a pickle that is cut off"],
)
def test_what_would_not_load_is_not_left_behind(tmp_path, change, what):
    path = rewritten(tmp_path / "a.pt", {"w": torch.ones(10), "b": torch.ones(3)}, change)
    with pytest.raises(CorruptCheckpointError, match=what):
        salvage(str(path), tmp_path / "o.pt")
    assert not (tmp_path / "o.pt").exists()


def test_a_state_in_circles_whose_lost_tensor_is_held_elsewhere_too_is_not_written(tmp_path):
    within: dict[str, object] = {}
    within["around"] = around = [within, torch.ones(5)]
    torch.save({"around": around, "within": within, "b": torch.ones(3)}, tmp_path / "a.pt")
    start, _ = records(tmp_path / "a.pt")["data/0"]
    flip(tmp_path / "a.pt", start)
    with pytest.raises(CorruptCheckpointError, match=r"what is left would not load: .*a\.pt"):
        salvage(str(tmp_path / "a.pt"), tmp_path / "o.pt")
    assert not (tmp_path / "o.pt").exists()
