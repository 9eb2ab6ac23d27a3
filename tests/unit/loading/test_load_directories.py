"""`load` of a directory: its newest intact checkpoint, whatever its prefix, or an error that says why not."""

from __future__ import annotations

import logging
import os

import pytest
import safetensors.torch
import torch

import marlin_ckpt
from marlin_ckpt import CheckpointDirectory, CheckpointNotFoundError, CorruptCheckpointError, MarlinError
from tests.support import folder_checkpoints
from tests.support.pair_layout import registered, write_pair
from tests.support.restored import net, same


def save(folder, *names) -> None:
    """Saves a state that holds its file's name under each of some names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("safetensors"):
            safetensors.torch.save_file({name: torch.ones(2)}, path)
        elif name.endswith((".pt", ".ckpt", ".pth")):
            torch.save({"name": name}, path)
        else:
            path.write_text("{}")


@pytest.mark.parametrize(
    ("names", "newest"),
    [
        (["model_2.pt", "model_10.pt", "model_model_11.pt", "notes.txt"], "model_10.pt"),
        (["mine_2.ckpt", "below/mine_3.ckpt"], "below/mine_3.ckpt"),
        (["epoch=1-step=20.ckpt", "epoch=2-step=9.ckpt"], "epoch=1-step=20.ckpt"),
        (["last.ckpt"], "last.ckpt"),
        (["step-9.pt", "step-10.pt"], "step-10.pt"),
        (["model_1.pt", "epoch=1-step=20.ckpt"], "model_1.pt"),
    ],
)
def test_the_newest_checkpoint_of_a_directory_is_loaded_whatever_its_prefix(tmp_path, names, newest):
    save(tmp_path, *names)
    assert marlin_ckpt.load(tmp_path) == {"name": newest}


def test_what_is_damaged_is_passed_over_and_the_log_says_why(tmp_path, caplog):
    save(tmp_path, "model_1.pt", "model_2.pt")
    (tmp_path / "model_3.pt").write_bytes((tmp_path / "model_2.pt").read_bytes()[:-40])
    (tmp_path / "model_4.pt").write_text("<html>")
    assert marlin_ckpt.load(tmp_path) == {"name": "model_2.pt"}
    assert [one.levelno for one in caplog.records] == [logging.WARNING] * 2
    assert "model_4.pt" in caplog.messages[0]
    assert "truncated" in caplog.messages[1]


def test_an_older_checkpoint_fills_the_live_objects_where_the_newest_is_damaged(tmp_path):
    first, second, live = net(), net(), net()
    for number, module in enumerate((first, second)):
        torch.save({"model": module.state_dict()}, tmp_path / f"model_{number}.pt")
    data = bytearray((tmp_path / "model_1.pt").read_bytes())
    data[data.index(second[0].bias.detach().numpy().tobytes()) + 2] ^= 1
    (tmp_path / "model_1.pt").write_bytes(data)
    marlin_ckpt.load(tmp_path, into={"model": live})
    assert same(dict(live.state_dict()), dict(first.state_dict()))


def test_a_state_that_does_not_fit_is_not_passed_over(tmp_path):
    for number, module in enumerate((net(), torch.nn.Linear(1, 1))):
        torch.save(module.state_dict(), tmp_path / f"model_{number}.pt")
    with pytest.raises(marlin_ckpt.StateMismatchError, match=r"model_1\.pt"):
        marlin_ckpt.load(tmp_path, into=net())


@pytest.mark.parametrize("form", ["legacy", "safetensors"])
def test_of_formats_without_checksums_the_newest_is_loaded_with_a_warning(tmp_path, caplog, form):
    if form == "legacy":
        for number in (1, 2):
            path = tmp_path / f"model_{number}.pt"
            torch.save({"a": torch.ones(number)}, path, _use_new_zipfile_serialization=False)
    else:
        for number in (1, 2):
            safetensors.torch.save_file({"a": torch.ones(number)}, tmp_path / f"model_{number}.safetensors")
    assert len(marlin_ckpt.load(tmp_path)["a"]) == 2
    assert "cannot be verified" in caplog.text


@pytest.mark.parametrize(
    ("numbers", "says"), [((2,), "the only checkpoint is not"), ((1, 2), "none of 2 checkpoints is")]
)
@pytest.mark.parametrize(
    "load", [marlin_ckpt.load, lambda path: marlin_ckpt.CheckpointDirectory(path).load()]
)
def test_where_all_are_damaged_the_newest_ones_error_is_raised_and_says_what_to_type(
    tmp_path, numbers, says, load
):
    for number in numbers:
        save(tmp_path, f"model_{number}.pt")
        (tmp_path / f"model_{number}.pt").write_bytes((tmp_path / f"model_{number}.pt").read_bytes()[:-40])
    with pytest.raises(CorruptCheckpointError, match=r"model_2\.pt") as caught:
        load(tmp_path)
    assert caught.value.hint == (
        f"{says} intact: `marlin-ckpt verify {tmp_path}` says what is wrong with each, "
        f"`marlin-ckpt salvage {tmp_path}/model_2.pt --output FILE` takes out what is left"
    )


def test_none_that_was_saved_is_a_state_as_any(tmp_path):
    torch.save(None, tmp_path / "model_2.pt")
    save(tmp_path, "model_1.pt")
    assert marlin_ckpt.load(tmp_path) is None


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["a_1.pt", "b_2.pt"], "a_*.pt, b_*.pt"),
        (["a_1.pt", "a_1.safetensors"], "a_*.pt, a_*.safetensors"),
        (["step-1.pt", "step-2.ckpt"], "*.ckpt, *.pt"),
    ],
)
def test_checkpoints_of_several_kinds_are_an_error_that_names_them(tmp_path, names, kinds):
    save(tmp_path, *names)
    with pytest.raises(MarlinError, match="several kinds") as caught:
        marlin_ckpt.load(tmp_path)
    assert caught.value.what.endswith(kinds)
    assert str(tmp_path / names[0]) in caught.value.hint or str(tmp_path / names[1]) in caught.value.hint


@pytest.mark.parametrize(
    ("names", "hint"),
    [([], "it is empty"), (["final7.pt"], "final7.pt: name the file"), (["a.txt"], "a.txt: name the file")],
)
def test_a_directory_without_names_that_say_which_is_newest_is_an_error(tmp_path, names, hint):
    save(tmp_path, *names)
    with pytest.raises(CheckpointNotFoundError) as caught:
        marlin_ckpt.load(tmp_path)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "names", [("epoch=3.ckpt", "step=5.ckpt"), ("epoch=1-step=20.ckpt", "last.ckpt")], ids=["mixed", "last"]
)
def test_names_of_one_tool_that_say_different_things_are_an_error_that_names_them(tmp_path, names):
    save(tmp_path, *names)
    with pytest.raises(MarlinError, match=f"which is newer: {', '.join(names)}"):
        marlin_ckpt.load(tmp_path)


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["trainer_state.json", "model.safetensors", "rng_state_0.pth"], "resume_from_checkpoint"),
        (["config.json", "model.safetensors"], "from_pretrained"),
    ],
)
def test_a_folder_that_is_one_checkpoint_of_another_tool_is_not_searched(tmp_path, names, hint):
    save(tmp_path, *names)
    with pytest.raises(MarlinError, match="one checkpoint of another tool") as caught:
        marlin_ckpt.load(tmp_path)
    assert hint in caught.value.hint


def test_the_parts_of_other_tools_folders_are_not_taken_for_checkpoints(tmp_path):
    save(tmp_path, "checkpoint-5/trainer_state.json", "checkpoint-5/rng_state_0.pth")
    with pytest.raises(MarlinError, match=r"one checkpoint of another tool.*checkpoint-5"):
        marlin_ckpt.load(tmp_path)
    save(tmp_path, "model_3.pt")
    assert marlin_ckpt.load(tmp_path) == {"name": "model_3.pt"}


def test_a_folder_that_is_one_checkpoint_of_ours_is_an_error_that_names_a_file_of_it(tmp_path):
    save(tmp_path, "model_3.pt")
    with registered():
        folder = write_pair(tmp_path, 4)
        for path in (folder, tmp_path):
            with pytest.raises(MarlinError, match=r"folder of files.*model_4\.pair") as caught:
                marlin_ckpt.load(path)
            assert str(folder / "weights.bin") in caught.value.hint


@pytest.mark.parametrize("name", ["checkpoint-500", "run_3", "final"])
def test_a_folder_with_a_manifest_is_an_error_whose_hint_is_a_file_that_loads(tmp_path, name):
    weights = safetensors.torch.save({"a": torch.ones(2)})
    folder_checkpoints.save(tmp_path, name, {"a.json": b"{}", "model.safetensors": weights})
    with pytest.raises(MarlinError, match="folder of files") as caught:
        marlin_ckpt.load(tmp_path / name)
    assert same(marlin_ckpt.load(caught.value.hint.rpartition(" ")[2]), {"a": torch.ones(2)})
    with pytest.raises(MarlinError, match="no checkpoint found" if name == "final" else "folder of files"):
        marlin_ckpt.load(tmp_path)


def test_a_folder_belongs_to_the_files_of_its_prefix_whatever_their_extension(tmp_path):
    save(tmp_path, "run_7.ckpt")
    with CheckpointDirectory(tmp_path, prefix="run").transaction("run_5") as folder:
        torch.save({}, os.path.join(folder, "a.pt"))
    marlin_ckpt.load(tmp_path)
