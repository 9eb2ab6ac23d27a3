"""Which of the Trainer's folders a run can go on from, and which of them go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.errors import CheckpointNotFoundError, CorruptCheckpointError
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.operations.folders import transformers as folders
from marlin_ckpt.operations.folders.transformers import STATE, WEIGHTS, missing, surplus

NEEDED = folders.needed(save_only_model=False)
WHOLE = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", STATE]


def stock(directory: Path, step: int, without: str = "") -> Path:
    """A folder as the Trainer writes it, without a manifest."""
    folder = directory / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in WHOLE:
        if name == STATE:
            (folder / name).write_text(json.dumps({"global_step": step}))
        elif name == "model.safetensors":
            header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
            (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        else:
            torch.save({"step": step, "noise": torch.arange(99.0)}, folder / name)
    if without:
        (folder / without).unlink()
    return folder


@pytest.mark.parametrize("name", WHOLE)
def test_what_a_run_needs_and_a_folder_has_not_is_named(name):
    (gone,) = missing({*WHOLE} - {name}, (), NEEDED)
    assert gone == {"model.safetensors": WEIGHTS, "rng_state.pth": "rng_state*.pth"}.get(name, name)
    assert missing(WHOLE, (), NEEDED) == []


def test_a_run_that_saves_no_optimizer_needs_none():
    needed = folders.needed(save_only_model=True)
    assert missing(["model.safetensors", STATE], (), needed) == []
    assert missing(["model.safetensors"], (), needed) == [STATE]


def test_each_shard_that_the_index_names_is_needed():
    names = {*WHOLE, "model.safetensors.index.json", "a.safetensors"} - {"model.safetensors"}
    assert missing(names, ["a.safetensors", "b.safetensors"], NEEDED) == ["b.safetensors"]


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "second/adapter_model.bin"])
def test_the_adapters_of_peft_are_weights_in_the_folder_or_in_one_of_their_own(weights):
    assert missing({*WHOLE, weights} - {"model.safetensors"}, (), NEEDED) == []
    assert missing({*WHOLE, f"a/b/{weights}"} - {"model.safetensors"}, (), NEEDED) == [WEIGHTS]


def test_the_states_of_random_numbers_of_several_processes_count_whatever_their_number():
    assert missing({*WHOLE, "rng_state_0.pth", "rng_state_1.pth"} - {"rng_state.pth"}, (), NEEDED) == []


def test_a_folder_without_a_manifest_is_unverifiable_where_all_is_there(tmp_path):
    assert folders.verify(str(stock(tmp_path, 5)), NEEDED).status is Status.UNVERIFIABLE


@pytest.mark.parametrize("name", WHOLE)
def test_a_folder_without_a_manifest_is_incomplete_without_a_file(tmp_path, name):
    assert folders.verify(str(stock(tmp_path, 5, name)), NEEDED).status is Status.INCOMPLETE


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("size", ["none", "half"])
def test_a_folder_without_a_manifest_is_corrupt_where_a_file_was_cut_off(tmp_path, name, size):
    path = stock(tmp_path, 5) / name
    os.truncate(path, 0 if size == "none" else path.stat().st_size // 2)
    found = folders.verify(str(path.parent), NEEDED)
    assert found.status is Status.CORRUPT
    assert name in found.reason


def test_the_newest_complete_folder_is_taken_and_the_log_says_what_is_wrong_with_those_before(
    tmp_path, caplog
):
    good = stock(tmp_path, 9)
    stock(tmp_path, 10, STATE)
    (stock(tmp_path, 11) / "optimizer.pt").write_bytes(b"")
    (tmp_path / "checkpoint-12-copy").mkdir()
    (tmp_path / "checkpoint-13").write_bytes(b"")
    assert folders.start(str(tmp_path), "", NEEDED) == (
        str(good),
        {
            f"{tmp_path}/checkpoint-11": "corrupt: optimizer.pt: not a checkpoint but an empty file",
            f"{tmp_path}/checkpoint-10": f"incomplete: without {STATE}",
        },
    )
    assert [one.getMessage() for one in caplog.records] == [
        f"Passed over {tmp_path}/checkpoint-11: corrupt: optimizer.pt: not a checkpoint but an empty file",
        f"Passed over {tmp_path}/checkpoint-10: incomplete: without {STATE}",
        f"Nothing proves that {good} is intact: its files were saved without a manifest of checksums",
    ]


def test_a_directory_without_folders_has_nothing_to_start_from(tmp_path):
    assert folders.start(str(tmp_path), "", NEEDED) is None
    assert folders.start(str(tmp_path / "missing"), "", NEEDED) is None


def test_where_no_folder_is_good_that_is_an_error(tmp_path):
    stock(tmp_path, 5, STATE)
    with pytest.raises(CorruptCheckpointError, match="the only checkpoint is not intact"):
        folders.start(str(tmp_path), "", NEEDED)


def test_a_folder_that_is_named_and_bad_is_refused_and_the_hint_names_the_newest_good_one(tmp_path):
    good, bad = stock(tmp_path, 4), stock(tmp_path, 5, "optimizer.pt")
    with pytest.raises(CorruptCheckpointError, match=r"incomplete: without optimizer\.pt") as caught:
        folders.start(str(tmp_path / "elsewhere"), f"{bad}/", NEEDED)
    assert str(good) in caught.value.hint


def test_a_folder_that_is_named_may_hold_the_model_alone_with_a_warning(tmp_path, caplog):
    folder = stock(tmp_path, 5)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).unlink()
    assert folders.start(str(tmp_path), str(folder), NEEDED) == (str(folder), {})
    assert "Only the model is in" in caplog.text
    with pytest.raises(CorruptCheckpointError):
        folders.start(str(tmp_path), "", NEEDED)


def test_a_folder_that_is_named_and_missing_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="no such checkpoint"):
        folders.start(str(tmp_path), str(tmp_path / "checkpoint-1"), NEEDED)


@given(
    st.lists(st.sampled_from("abcdefgh"), unique=True),
    st.integers(-1, 9),
    st.sets(st.sampled_from("abcdefgh")),
)
def test_the_oldest_go_until_no_more_than_the_limit_stay_and_none_that_is_kept(paths, limit, kept):
    going = surplus(paths, limit, kept)
    free = [path for path in paths if path not in kept]
    assert going == free[: len(going)]
    if limit <= 0:
        assert going == []
    else:
        stay = len(paths) - len(going)
        assert stay == max(min(limit, len(paths)), len(paths) - len(free))


def test_what_goes_is_decided_by_the_times_of_writing_and_then_by_the_steps(tmp_path):
    for step in (100, 9, 10, 2000):
        os.utime(stock(tmp_path, step), (5, 5))
    os.utime(tmp_path / "checkpoint-2000", (1, 1))  # of an older run
    os.symlink("checkpoint-9", tmp_path / "best")
    folders.rotate(str(tmp_path), 2, [str(tmp_path / "best")])
    assert {one.name for one in tmp_path.iterdir()} == {"best", "checkpoint-9", "checkpoint-100"}


def test_the_metrics_of_a_step_are_the_numbers_that_were_logged_at_it():
    history = [
        {"loss": 3.0, "grad_norm": 9.0, "step": 1},
        {"loss": 2.0, "step": 2, "note": "x"},
        {"eval_loss": 1.5, "step": 2},
    ]
    assert folders.metrics_at(2, history) == {"loss": 2.0, "eval_loss": 1.5}
