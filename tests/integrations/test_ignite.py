"""The save handler for PyTorch-Ignite, with the real package."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from marlin_ckpt.directory import catalog
from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats.inspection import inspect as look
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.reports import SaveReport
from tests.support.checkpoint_directories import listed
from tests.support.folders import REPOSITORY

with warnings.catch_warnings():  # of torch.jit.script, which torch.distributed.optim calls
    warnings.simplefilter("ignore", DeprecationWarning)
    import ignite.distributed as idist
    from ignite.engine import Engine, Events
    from ignite.handlers import Checkpoint, DiskSaver
    from ignite.handlers.checkpoint import BaseSaveHandler

    from marlin_ckpt.integrations.ignite import MarlinSaver


class Loop:
    """An engine of one iteration an epoch, whose metric is what the test says."""

    def __init__(self, scores: list[float]) -> None:
        self.model = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.engine = Engine(self._step)
        self.to_save = {"model": self.model, "optimizer": self.optimizer, "trainer": self.engine}
        self._scores = scores

    def _step(self, engine: Engine, _batch: int) -> None:
        self.optimizer.zero_grad()
        self.model(torch.ones(3)).sum().backward()
        self.optimizer.step()
        engine.state.metrics["accuracy"] = self._scores[engine.state.epoch - 1]

    def run(self, *handlers: Callable[..., Any]) -> None:
        for handler in handlers:
            self.engine.add_event_handler(Events.EPOCH_COMPLETED, handler)
        self.engine.run([0], max_epochs=len(self._scores))


def by_score(engine: Engine) -> float:
    return engine.state.metrics["accuracy"]


def epoch_of(engine: Engine, _event: Any) -> int:
    return engine.state.epoch


def names(directory: Path) -> list[str]:
    return listed(directory)


def manifest(path: Path | str) -> Manifest:
    entry = catalog.entry(path)
    assert entry is not None
    found = look(entry).manifest
    assert found is not None
    return found


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_best_files_are_kept_with_their_scores_and_steps_in_the_manifests(
    tmp_path: Path, asynchronous: bool
) -> None:
    loop = Loop([0.5, 0.9, 0.25, 0.75])
    with MarlinSaver(tmp_path / "new", asynchronous=asynchronous) as saver:
        handler = Checkpoint(
            loop.to_save,
            saver,
            filename_prefix="best",
            n_saved=2,
            score_function=by_score,
            score_name="accuracy",
            global_step_transform=epoch_of,
        )
        loop.run(handler)
    assert names(tmp_path / "new") == [
        "best_checkpoint_2_accuracy=0.9000.pt",
        "best_checkpoint_4_accuracy=0.7500.pt",
    ]
    best = manifest(handler.last_checkpoint)
    assert (best.index, best.metrics) == (2, {"accuracy": 0.9})


@pytest.mark.parametrize(
    ("options", "name", "index", "metrics"),
    [
        ({}, "checkpoint_1.pt", 1, {}),
        ({"filename_prefix": "a_7"}, "a_7_checkpoint_1.pt", 1, {}),
        ({"score_function": by_score}, "checkpoint_0.5000.pt", 0, {"score": 0.5}),
        (
            {"score_function": by_score, "global_step_transform": epoch_of},
            "checkpoint_1_0.5000.pt",
            1,
            {"score": 0.5},
        ),
        ({"score_name": "accuracy"}, "checkpoint_accuracy=0.5000.pt", 0, {"accuracy": 0.5}),
        ({"filename_pattern": "{name}.pt"}, "checkpoint.pt", 0, {}),
    ],
)
def test_every_form_of_name_gives_its_step_and_score(
    tmp_path: Path, options: dict[str, Any], name: str, index: int, metrics: dict[str, float]
) -> None:
    loop = Loop([0.5])
    loop.run(Checkpoint(loop.to_save, MarlinSaver(tmp_path), **options))
    assert names(tmp_path) == [name]
    found = manifest(tmp_path / name)
    assert (found.index, found.metrics) == (index, metrics)


def test_the_loaders_of_ignite_read_what_was_saved(tmp_path: Path) -> None:
    loop = Loop([0.5, 0.75])
    handler = Checkpoint(loop.to_save, MarlinSaver(tmp_path), n_saved=2, include_self=True)
    loop.run(handler)
    assert handler.last_checkpoint == tmp_path / "checkpoint_2.pt"

    other = Loop([])
    again = Checkpoint(other.to_save, MarlinSaver(tmp_path, require_empty=False), n_saved=2)
    Checkpoint.load_objects({**other.to_save, "checkpointer": again}, handler.last_checkpoint)
    assert torch.equal(other.model.weight, loop.model.weight)
    assert other.engine.state.epoch == 2
    assert again.last_checkpoint == handler.last_checkpoint

    again.reload_objects(other.to_save, global_step=1)
    assert not torch.equal(other.model.weight, loop.model.weight)
    assert other.engine.state.epoch == 1


class Breaking:
    """Has a state that cannot be saved the second time."""

    def __init__(self) -> None:
        self._asked = 0

    def state_dict(self) -> dict[str, Any]:
        self._asked += 1
        return {"value": (lambda: 0) if self._asked == 2 else self._asked}

    def load_state_dict(self, _state: dict[str, Any]) -> None: ...


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_save_that_fails_leaves_the_older_file_which_goes_after_the_next_that_does_not(
    tmp_path: Path, asynchronous: bool
) -> None:
    loop = Loop([0.5, 0.5, 0.5])
    with MarlinSaver(tmp_path, asynchronous=asynchronous) as saver:
        handler = Checkpoint({**loop.to_save, "breaking": Breaking()}, saver, n_saved=1)

        def save(engine: Engine) -> None:
            if engine.state.epoch != 2:
                handler(engine)
                return
            with pytest.raises(UnsavableStateError):
                handler(engine)
                saver.wait()
            assert names(tmp_path) == ["checkpoint_1.pt"]

        loop.run(save)
    assert names(tmp_path) == ["checkpoint_3.pt"]


def test_the_older_file_is_there_until_the_newer_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    rename = os.rename

    def look_first(*args: Any, **kwargs: Any) -> None:
        rename(*args, **kwargs)
        seen.append([name for name in names(tmp_path) if not name.startswith(".")])

    monkeypatch.setattr(os, "rename", look_first)
    loop = Loop([0.5, 0.5])
    loop.run(Checkpoint(loop.to_save, MarlinSaver(tmp_path), n_saved=1))
    assert seen == [["checkpoint_1.pt"], ["checkpoint_1.pt", "checkpoint_2.pt"]]
    assert names(tmp_path) == ["checkpoint_2.pt"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_name_that_stays_the_same_is_replaced_and_never_removed(tmp_path: Path, asynchronous: bool) -> None:
    reports: list[SaveReport] = []
    loop = Loop([0.5, 0.5, 0.5])
    with MarlinSaver(tmp_path, asynchronous=asynchronous, on_durable=reports.append) as saver:
        loop.run(Checkpoint(loop.to_save, saver, filename_pattern="{name}.pt", n_saved=1))
    assert names(tmp_path) == ["checkpoint.pt"]
    assert [report.path for report in reports] == [str(tmp_path / "checkpoint.pt")] * 3
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 3
    assert torch.equal(state["model"]["weight"], loop.model.weight)


def test_a_file_that_a_link_leads_to_goes_after_the_link_leads_elsewhere(tmp_path: Path) -> None:
    loop = Loop([0.5, 0.5, 0.5, 0.5])
    handler = Checkpoint(loop.to_save, MarlinSaver(tmp_path), n_saved=1)
    seen = []

    def save_and_link(engine: Engine) -> None:
        handler(engine)
        if engine.state.epoch in (1, 3):
            (tmp_path / "mine.pt").unlink(missing_ok=True)
            (tmp_path / "mine.pt").symlink_to(f"checkpoint_{engine.state.epoch}.pt")
        seen.append(names(tmp_path))

    loop.run(save_and_link)
    assert seen == [
        ["checkpoint_1.pt", "mine.pt"],
        ["checkpoint_1.pt", "checkpoint_2.pt", "mine.pt"],
        ["checkpoint_1.pt", "checkpoint_3.pt", "mine.pt"],
        ["checkpoint_3.pt", "checkpoint_4.pt", "mine.pt"],
    ]


def test_a_directory_is_made_or_refused_as_by_disk_saver(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "checkpoint_1.pt").touch()
    with pytest.raises(ValueError, match="already present"):
        MarlinSaver(tmp_path / "full")
    MarlinSaver(tmp_path / "full", require_empty=False)
    with pytest.raises(ValueError, match="not found"):
        MarlinSaver(tmp_path / "none", create_dir=False)
    MarlinSaver(tmp_path / "one" / "two")
    assert names(tmp_path / "one") == ["two"]


def test_other_ranks_neither_look_nor_save_nor_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint_0.pt").touch()
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    saver = MarlinSaver(tmp_path)
    saver.remove("checkpoint_0.pt")
    saver({"a": 1}, "checkpoint_1.pt", {})
    saver.close()
    assert names(tmp_path) == ["checkpoint_0.pt"]
    MarlinSaver(tmp_path / "of-one", save_on_rank=1)({"a": 1}, "checkpoint_1.pt")
    assert names(tmp_path / "of-one") == ["checkpoint_1.pt"]


def test_the_handler_that_it_takes_the_place_of_has_the_methods_that_it_overrides() -> None:
    parameters = [*inspect.signature(DiskSaver.__init__).parameters]
    assert parameters[1:6] == ["dirname", "atomic", "create_dir", "require_empty", "save_on_rank"]
    assert BaseSaveHandler.__abstractmethods__ == {"__call__", "remove"}
    overridden = ["__init__", "__call__", "remove"]
    assert sorted({*vars(DiskSaver)} & {*vars(MarlinSaver)} - {"__module__", "__doc__"} - {*overridden}) == [
        *sorted({*vars(DiskSaver)} & {"__abstractmethods__", "_abc_impl"})
    ]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, cases: Callable[[int, int], int]) -> dict[str, Any]:
    count = int(os.environ.get("PEER_KILLS", cases(2, 100)))
    command = [sys.executable, "-m", "tests.support.ignite_runs", "kills"]
    command += [str(tmp_path_factory.mktemp("killed")), str(count), "1"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["at once", "behind the loop"])
def test_a_training_that_is_killed_at_any_step_of_a_save_resumes_as_if_it_had_not_been(
    killed: dict[str, Any], kind: str
) -> None:
    for name, found in killed.items():
        bad = len(found["unresumable"]), len(found["different"])
        sys.stdout.write(f"{name}: {found['killed']} kills, unresumable {bad[0]}, different {bad[1]}\n")
    assert killed[kind]["expected"] == killed["stock"]["expected"]
    assert killed[kind]["killed"] > 0
    assert killed[kind]["unresumable"] == killed[kind]["different"] == []
