"""Saves a run's checkpoints under rules, from where it was killed; says of each when it is reported."""

from __future__ import annotations

import sys

import torch

from marlin_ckpt import (
    BestArguments,
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    RetentionArguments,
)

RULES = {"last": 3, "every": 50}
COUNT = 2


def rules() -> RetentionArguments:
    return RetentionArguments(**RULES, best=BestArguments("loss", "min", COUNT))


def loss(index: int) -> float:
    return float((index * 37) % 101)


def tell(what: str, index: int) -> None:
    sys.stdout.write(f"{what} {index}\n")
    sys.stdout.flush()


def main(directory: str, saves: int, *, async_save: bool) -> None:
    args = DefaultCheckpointerArguments(
        save_dir=directory, load_dir=directory, keep=rules(), async_save=async_save, log_level="ERROR"
    )
    with DefaultCheckpointer(args) as checkpointer:
        loaded = checkpointer.load().trainer_state or {"index": -1}
        tell("from", loaded["index"])
        for index in range(loaded["index"] + 1, saves):
            state = {"weight": torch.full((20_000,), float(index))}
            checkpointer.save(Checkpoint(state, {"index": index}, metrics={"loss": loss(index)}), index)
            for report in checkpointer.take_reports():
                tell("saved", report.index)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), async_save=sys.argv[3] == "async")
