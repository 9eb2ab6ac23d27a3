"""Accelerate's states with our adapter: what they hold, which are loaded, kept and refused."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import marlin_ckpt
from marlin_ckpt.errors import CheckpointNotFoundError, CorruptCheckpointError, StorageError
from marlin_ckpt.integrations import accelerate as adapter
from marlin_ckpt.operations.folders import numbered
from tests.support.accelerate_runs import EPOCHS, Training
from tests.support.folders import REPOSITORY

FILES = [
    *("custom_checkpoint_0.pkl", "model.safetensors", "model_1.safetensors", "optimizer.bin"),
    *("optimizer_1.bin", "random_states_0.pkl", "scheduler.bin", "scheduler_1.bin"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The states of an undisturbed run."""
    directory = tmp_path_factory.mktemp("whole")
    Training(str(directory), is_ours=True, limit=None).train()
    return directory


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of them, which a test may damage."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def folder(directory: Path, number: int) -> Path:
    return directory / "checkpoints" / f"checkpoint_{number}"


def numbers(directory: Path) -> list[int]:
    return sorted(int(name.rpartition("_")[2]) for name in os.listdir(directory / "checkpoints"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def continued(directory: Path, path: Path | None = None, **options: Any) -> Training:
    training = Training(str(directory), is_ours=True, **options)
    training.accelerator.load_state(path)
    return training


def test_what_is_overridden_and_read_is_in_this_release_of_accelerate() -> None:
    save, load = inspect.signature(Accelerator.save_state), inspect.signature(Accelerator.load_state)
    assert [*save.parameters] == ["self", "output_dir", "safe_serialization", "save_model_func_kwargs"]
    assert [*load.parameters] == ["self", "input_dir", "load_kwargs", "load_model_func_kwargs"]
    assert {*adapter.PRIVATE} <= {*vars(Accelerator(cpu=True))}
    own = {name for name, one in vars(adapter.MarlinAccelerator).items() if callable(one)}
    assert own & {*dir(Accelerator)} == {"save_state", "load_state"}
    source = inspect.getsource(Accelerator.save_state)
    assert "self.project_configuration.iteration += 1" in source
    assert source.count("automatic_checkpoint_naming:") == 2  # nothing else of it depends on that


def test_a_state_is_a_folder_with_checksums_of_all_its_files(whole: Path) -> None:
    assert numbers(whole) == [*range(EPOCHS)]
    verdict = marlin_ckpt.verify(folder(whole, 1))
    assert (str(verdict.status), verdict.reason) == ("intact", "")
    found = numbered.manifest(str(folder(whole, 1)))
    assert found is not None
    assert [row["name"] for row in found.records] == FILES
    assert (found.index, found.save_number) == (1, 2)


def test_accelerate_by_itself_loads_what_was_saved(whole: Path) -> None:
    stock = Training(str(whole), is_ours=False)
    stock.accelerator.load_state()
    last = continued(whole)
    assert stock.digest() == last.digest()
    assert stock.epoch.done == EPOCHS
    stock.accelerator.load_state(str(folder(whole, 0)))
    assert stock.digest() != last.digest()


def test_a_run_that_goes_on_saves_under_the_next_number_and_as_the_same_run(run: Path) -> None:
    training = continued(run)
    training.train(EPOCHS + 1)
    assert numbers(run) == [*range(1 + EPOCHS)][-2:]  # total_limit is 2
    found = numbered.manifest(str(folder(run, EPOCHS)))
    before = numbered.manifest(str(folder(run, EPOCHS - 1)))
    assert found is not None
    assert before is not None
    assert (found.run_id, found.save_number) == (before.run_id, EPOCHS + 1)


def test_older_states_go_when_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    rename = os.rename

    def look(source: Any, target: Any, **options: Any) -> None:
        rename(source, target, **options)
        if re.fullmatch("checkpoint_[0-9]+", os.fsdecode(target)):
            seen.append(
                [one for one in sorted(os.listdir(tmp_path / "checkpoints")) if not one.startswith(".")]
            )

    monkeypatch.setattr(os, "rename", look)
    Training(str(tmp_path), is_ours=True, limit=1).train(3)
    assert seen == [
        ["checkpoint_0"],
        ["checkpoint_0", "checkpoint_1"],
        ["checkpoint_1", "checkpoint_2"],
    ]
    assert numbers(tmp_path) == [2]


def test_the_newest_intact_state_is_loaded_and_the_damaged_one_is_replaced(
    whole: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip(folder(run, 3) / "optimizer_1.bin")
    training = continued(run, limit=None)
    assert training.epoch.done == 3
    assert f"Passed over {folder(run, 3)}: corrupt: the CRC of optimizer_1.bin does not hold" in caplog.text
    assert training.train() == continued(whole).digest()
    assert numbers(run) == [*range(EPOCHS)]
    assert marlin_ckpt.verify(folder(run, 3)).status.is_sound


def test_a_folder_whose_manifest_is_damaged_is_passed_over_and_replaced(run: Path) -> None:
    (folder(run, 3) / ".marlin" / "manifest.json").write_text("{")
    continued(run).train()
    assert marlin_ckpt.verify(folder(run, 3)).status.is_sound


def test_a_damaged_state_that_is_named_is_refused_with_the_newest_intact_one(run: Path) -> None:
    (folder(run, 3) / "scheduler.bin").unlink()
    flip(folder(run, 1) / "model.safetensors")
    with pytest.raises(CorruptCheckpointError, match="the CRC of model") as raised:
        continued(run, folder(run, 1))
    assert raised.value.hint == f"load the newest that is intact: {folder(run, 2)}"


def test_after_an_older_state_was_named_the_next_one_is_the_last(run: Path) -> None:
    training = continued(run, folder(run, 0), limit=None)
    training.train(2)
    assert numbers(run) == [*range(EPOCHS + 1)]
    assert continued(run).digest() == training.digest()


def test_a_run_that_has_loaded_nothing_does_not_save_beside_the_states_of_another(run: Path) -> None:
    shutil.rmtree(folder(run, 0))  # so that Accelerate would save, and remove what it has saved as the oldest
    training = Training(str(run), is_ours=True)
    with pytest.raises(StorageError, match="checkpoint_0 would not be the last") as raised:
        training.train(1)
    assert raised.value.hint.startswith("call load_state first")
    assert numbers(run) == [1, 2, 3]
    assert training.accelerator.save_iteration == 0


def test_without_any_state_and_without_an_intact_one_the_errors_differ(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no checkpoint found"):
        continued(tmp_path / "none")
    for number in range(EPOCHS):
        flip(folder(run, number) / "model_1.safetensors")
    with pytest.raises(CorruptCheckpointError, match="none of 4 checkpoints is intact"):
        continued(run)


def test_a_state_that_accelerate_saved_is_loaded_with_a_warning_if_all_of_it_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stock = Training(str(tmp_path), is_ours=False, limit=None)
    stock.train(3)
    (folder(tmp_path, 2) / "random_states_0.pkl").unlink()
    torn = folder(tmp_path, 1) / "optimizer.bin"
    torn.write_bytes(torn.read_bytes()[:-100])
    assert continued(tmp_path).epoch.done == 1
    assert f"Passed over {folder(tmp_path, 2)}: incomplete: random_states_0.pkl is missing" in caplog.text
    assert f"Passed over {folder(tmp_path, 1)}: corrupt: optimizer.bin: " in caplog.text
    assert f"Nothing proves that {folder(tmp_path, 0)} is intact" in caplog.text


@pytest.mark.parametrize(
    ("gone", "names"),
    [
        ("model.safetensors", {"pytorch_model_1.bin"}),
        ("model_1.safetensors", {"pytorch_model.bin"}),
        ("optimizer.bin", {"pytorch_model.bin", "model_1.safetensors"}),
        ("scheduler.bin", {"pytorch_model.bin", "model_1.safetensors", "optimizer.bin"}),
    ],
)
def test_what_is_missing_is_named(gone: str, names: set[str]) -> None:
    assert adapter.folders.missing(names, 0, 2, 1, 1) == gone


def test_a_folder_that_is_named_is_replaced_unless_it_holds_something_else(tmp_path: Path) -> None:
    training = Training(str(tmp_path), is_ours=True, named=False)
    path = tmp_path / "a" / "step_500"
    training.train(1, str(path))
    training.train(2, str(path))
    found = numbered.manifest(str(path))
    assert found is not None
    assert (found.index, found.save_number) == (500, 2)
    other = Training(str(tmp_path), is_ours=True, named=False)
    other.accelerator.load_state(path)
    assert other.digest() == training.digest()

    (path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="such as notes"):
        training.train(3, str(path))
    assert (path / "notes.txt").read_text() == "mine"
    assert marlin_ckpt.verify(path).status.is_sound


def test_a_save_that_fails_leaves_the_folder_and_the_number_as_they_were(run: Path) -> None:
    training = continued(run)
    training.epoch.state_dict = lambda: {"done": lambda: 0}  # type: ignore[method-assign]
    with pytest.raises(AttributeError, match="pickle"):
        training.train(EPOCHS + 1)
    assert numbers(run) == [*range(EPOCHS)]
    assert training.accelerator.save_iteration == EPOCHS
    assert training.accelerator.project_configuration.automatic_checkpoint_naming

    del training.epoch.state_dict
    os.mkfifo(run / "pipe")
    hook = training.accelerator.register_save_state_pre_hook(
        lambda _models, _weights, output_dir: os.rename(run / "pipe", os.path.join(output_dir, "pipe"))
    )
    with pytest.raises(StorageError, match="refused to save pipe"):
        training.train(EPOCHS + 2)
    assert numbers(run) == [*range(EPOCHS)]
    assert training.accelerator.save_iteration == EPOCHS
    hook.remove()
    training.train(EPOCHS + 3)
    assert numbers(run) == [EPOCHS - 1, EPOCHS]


def test_what_hooks_write_is_part_of_the_state(tmp_path: Path) -> None:
    training = Training(str(tmp_path), is_ours=True)

    def hook(_models: list[torch.nn.Module], _weights: list[Any], output_dir: str) -> None:
        os.mkdir(os.path.join(output_dir, "unet"))
        Path(output_dir, "unet", "config.json").write_text("{}")

    training.accelerator.register_save_state_pre_hook(hook)
    training.train(1)
    found = numbered.manifest(str(folder(tmp_path, 0)))
    assert found is not None
    assert "unet/config.json" in [row["name"] for row in found.records]
    training.accelerator.project_configuration.iteration = 0
    shutil.rmtree(folder(tmp_path, 0) / "unet")  # a damaged one, which is replaced
    training.accelerator.save_state(safe_serialization=False)
    assert (folder(tmp_path, 0) / "pytorch_model_1.bin").is_file()
    assert continued(tmp_path).digest() == training.digest()


def test_what_it_does_not_cover_is_left_to_accelerate_which_the_log_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapter, "_LEFT", ("NO",))
    Training(str(tmp_path), is_ours=True).train(1)
    assert sorted(os.listdir(folder(tmp_path, 0))) == FILES
    assert caplog.text.count("With NO states are left to Accelerate: not atomic, not verified.") == 1


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, cases: Callable[[int, int], int]) -> dict[str, Any]:
    count = int(os.environ.get("PEER_KILLS", cases(2, 100)))
    command = [sys.executable, "-m", "tests.support.accelerate_runs", "kills"]
    command += [str(tmp_path_factory.mktemp("killed")), str(count)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_training_that_is_killed_at_any_step_of_a_save_resumes_as_if_it_had_not_been(
    killed: dict[str, Any],
) -> None:
    for name, found in killed.items():
        bad = len(found["unresumable"]), len(found["different"])
        sys.stdout.write(f"{name}: {found['killed']} kills, unresumable {bad[0]}, different {bad[1]}\n")
    ours = killed["ours"]
    assert ours["expected"] == killed["stock"]["expected"]
    assert ours["killed"] > 0
    assert ours["unresumable"] == ours["different"] == []
