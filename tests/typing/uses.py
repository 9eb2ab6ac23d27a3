# ruff: noqa: T201
"""How users call the public API; `mypy --strict` reads this, nothing runs it."""

from typing import Any, assert_type

import torch

import marlin_ckpt
from marlin_ckpt import (
    BestArguments,
    CheckpointDirectory,
    CheckpointInfo,
    Contents,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    LoadReport,
    Pruning,
    RetentionArguments,
    Saver,
    SaveReport,
    Status,
    Verdict,
)

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.AdamW(model.parameters())
state = {"model": model, "optimizer": optimizer, "epoch": 3}


def functions() -> None:
    report = marlin_ckpt.save(state, "last.pt", metrics={"loss": 0.5}, index=3, overwrite=False)
    assert_type(report, SaveReport)
    assert_type(report.path, str)
    assert_type(report.metrics, dict[str, float])
    loaded = marlin_ckpt.load("last.pt", into=state)
    assert_type(loaded, Any)
    on_device: Any = marlin_ckpt.load("last.pt", map_location={"cuda:1": "cuda:0"}, strip_prefix="module.")
    partly = marlin_ckpt.load("last.pt", into={"model": model}, strict=False)
    assert_type(partly, LoadReport)
    assert_type(partly.missing, tuple[str, ...])
    verdict = marlin_ckpt.verify("last.pt")
    assert_type(verdict, Verdict)
    assert_type(verdict.status is Status.INTACT, bool)
    contents = marlin_ckpt.inspect("last.pt")
    assert_type(contents, Contents)
    print(on_device, [(one.name, one.shape) for one in contents.tensors])


def behind_the_loop() -> None:
    def upload(report: SaveReport) -> None:
        print(report.path)

    with Saver(on_durable=upload, on_error=print) as saver:
        saver.register(optimizer)
        saver.save(state, "step_7.pt", metrics={"loss": torch.ones(())})
        saver.wait()
        assert_type(saver.take_reports(), list[SaveReport])
        assert_type(saver.run_id, str)


def a_directory() -> None:
    rules = RetentionArguments(last=3, best=BestArguments("loss", "min", 2))
    with CheckpointDirectory("runs/1", prefix="gpt", keep=rules, asynchronous=True) as directory:
        for one in directory:
            assert_type(one, CheckpointInfo)
        assert_type(directory.latest(), CheckpointInfo | None)
        assert_type(directory.best("loss", "min"), CheckpointInfo | None)
        assert_type(directory.save(state, 7, metrics={"loss": 0.5}), SaveReport | None)
        loaded: Any = directory.load("best", metric="loss", into=state)
        assert_type(directory.prune(dry_run=True), Pruning)
        with directory.transaction("step_8", metrics={"loss": 0.4}) as folder:
            assert_type(folder, str)
        print(loaded)


def of_pymarlin() -> None:
    checkpointer = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir="runs/2"))
    checkpoint = marlin_ckpt.Checkpoint(model.state_dict(), {}, {})
    assert_type(checkpointer.save(checkpoint, 1), str | None)
    assert_type(checkpointer.load(), marlin_ckpt.Checkpoint)
