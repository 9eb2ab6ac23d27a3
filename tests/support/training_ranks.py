"""What the ranks of tests/unit/training/parallel do: trainings, several in one run."""

from __future__ import annotations

import contextlib
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from marlin_ckpt import (
    DDPTrainerBackend,
    DefaultCheckpointerArguments,
    FsdpArguments,
    Preempted,
    SingleProcess,
    Trainer,
)
from marlin_ckpt.distributed import commit
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import MarlinError, StorageError
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.training.resume.leaves import fingerprint
from tests.support.modules_of_ranks import Asking, Compiled, Frozen, Liar, OfOwn, Overflowing, Plain
from tests.support.proven_modules import Careful
from tests.support.stopped_runs import arguments, final_state, trainer_in

UNSAVED = DefaultCheckpointerArguments(checkpoint=False)


def trained(directory: Path, module, **fields) -> Trainer:
    torch.manual_seed(7)
    trainer = trainer_in(directory, module=module, **{"epochs": 2, **fields})
    trainer.train()
    return trainer


def prints(trainer: Trainer) -> dict:
    state = {name: _local(one) for name, one in final_state(trainer).items()}
    return {name: fingerprint(one) for name, one in state.items()}


def _local(value):
    return value.to_local() if isinstance(value, DTensor) else value


def weights(trainer: Trainer) -> list:
    state = trainer.module.state_dict().values()
    whole = [one.full_tensor() if isinstance(one, DTensor) else one for one in state]
    return [value for one in whole for value in one.reshape(-1).tolist()]


def equals_one_process(directory: str, backend: str) -> dict:
    """Trains on the ranks, and by rank 0 alone."""
    found = {}
    world_size = Ranks().world_size
    for name, fields in {
        "plain": {},
        "accumulated": {"gpu_batch_size_limit": 2},
        "clipped": {"max_grad_norm": 0.01, "gpu_batch_size_limit": 2},
        "partial": {"train_batch_size": 16, "gpu_batch_size_limit": 2},
        "limited": {"max_train_steps_per_epoch": 3},
        "unfrozen": {"gpu_batch_size_limit": 2},
    }.items():
        options = {"train_batch_size": 8, **fields}
        make = {"partial": partial(Plain, 40), "unfrozen": Frozen}.get(name, Plain)  # partial: 16, 16 and 8
        many = trained(Path(directory, f"{name}-many"), make, backend=backend, **options)
        whole = {**options, "gpu_batch_size_limit": options.get("gpu_batch_size_limit", 256) * world_size}
        one = trained(Path(directory, f"{name}-one-{os.environ['RANK']}"), make, backend="sp", **whole)
        found[name] = {
            "many": weights(many), "one": weights(one),
            "seen": many.module.seen, "seen_by_one": one.module.seen,
            "steps": [many.global_steps_finished, one.global_steps_finished],
            "metrics": [many._metrics, one._metrics], "validated": many.module.validated,
        }  # fmt: skip
    return found


def resumes(directory: str, size: int, cases: list[list]) -> dict:
    """Trains straight, and stopped by a signal at one rank; whether both are the same at this rank."""
    found = {}
    rank = int(os.environ["RANK"])
    for number, (args, fields, checkpointer) in enumerate(cases):
        options = {"backend": "ddp", "train_batch_size": size, "epochs": 3, **fields}

        def make(where, args=args, checkpointer=checkpointer, options=options, number=number):
            place = Path(directory, f"{where}-{number}")
            return trainer_in(place, None, lambda: Careful(**args), checkpointer, **options)

        straight = make("whole")
        straight.train()
        codes = []
        for stop in (1, 5, 9):
            cut = make("cut")
            if rank == 1:
                send_after(cut, stop)
            try:
                cut.train()
            except Preempted as stopped:
                codes.append([stopped.code, os.path.basename(stopped.path), cut.global_steps_finished])
        last = make("cut")
        last.train()
        ours, theirs = prints(straight), prints(last)
        found[str(number)] = {
            "codes": codes,
            "differ": {
                name: [one, theirs.get(name)] for name, one in ours.items() if one != theirs.get(name)
            },
            "files": sorted(os.listdir(Path(directory, f"cut-{number}"))),
        }
    return found


def send_after(trainer: Trainer, step: int) -> None:
    """Sends this process a signal after a step."""

    def end(global_step: int, *outputs) -> None:
        if global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.module.on_end_train_step = end


def failure(work) -> list[str]:
    """What a piece of work raises here."""
    try:
        work()
    except MarlinError as error:
        return [type(error).__name__, str(error)]
    return []


def edges(directory: str, backend: str) -> dict:
    """Trains where data, modules or signals differ between ranks."""
    rank = int(os.environ["RANK"])
    unsaved = {"checkpointer": {"checkpoint": False}, "backend": backend, "epochs": 1}

    def train(module, **fields) -> Trainer:
        torch.manual_seed(7)
        trainer = trainer_in(directory, module=module, **{**unsaved, **fields})
        trainer.train()
        return trainer

    found: dict = {}
    uneven = train(partial(Plain, 41))
    found["uneven"] = [uneven.module.seen, uneven.module.validated, uneven.global_steps_finished]
    streaming = {"train_batch_size": 12, "gpu_batch_size_limit": 2, "max_train_steps_per_epoch": 100}
    stream = train(partial(Plain, 57, "uneven"), **streaming)
    found["stream"] = [stream.module.seen, stream.global_steps_finished, weights(stream)]
    if backend == "fsdp2":
        found |= {"wrapped": wrapped(train), "weights": weights(uneven)}
    measured = train(OfOwn, epochs=2)
    names = ("val_many_own", "val/one", "own", "train_own")
    found["metrics"] = [*(measured._metrics[name] for name in names), measured.last_epoch]
    found["differ"] = failure(lambda: train(lambda: Plain(seed=rank // 2)))
    found["meta"] = failure(lambda: train(lambda: Plain().to("meta") if rank == 1 else Plain()))
    apart = DefaultCheckpointerArguments(save_dir=f"{directory}/apart-{rank}")
    args = arguments(backend=backend, checkpointer_args=apart)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "PATIENCE_S", 0.2)
        found["apart"] = failure(lambda: Trainer(Plain(), args).train())
    found["apart"].append(os.path.exists(apart.save_dir))
    found["small"] = failure(lambda: train(Plain, train_batch_size=2))
    found["liar"] = failure(lambda: train(Liar, gpu_batch_size_limit=1, train_batch_size=12))
    return found


def wrapped(train) -> dict:
    """Trains modules that are sharded in other ways."""
    parts = partial(Plain, 41)
    by_class = train(parts, fsdp=FsdpArguments(wrap=["Linear"], reshard_after_forward=False))
    is_sharded = [isinstance(one, FSDPModule) for one in by_class.module.layers]
    coarse = train(parts, fsdp=FsdpArguments(mixed_precision="bfloat16"))
    unknown = failure(lambda: train(parts, fsdp=FsdpArguments(wrap=["Linaer"])))
    return {
        "sharded": is_sharded, "by_class": weights(by_class), "coarse": weights(coarse), "unknown": unknown,
    }  # fmt: skip


def saves(directory: str) -> dict:
    """What the files hold, what signals do, and what happens where saves fail; under DDP."""
    found: dict = {}
    rank = int(os.environ["RANK"])
    overflowing = trained(Path(directory, "amp"), Overflowing, backend="ddp-amp", amp_dtype="float16")
    found["amp"] = [overflowing.trainer_backend.get_state()["scaler"]["scale"], weights(overflowing)]
    whole = trained(Path(directory, "whole"), lambda: Asking(0, False), backend="ddp", val_batch_size=2)
    for name, number, in_validation in (
        ("step", signal.SIGTERM, False),
        ("validation", signal.SIGINT, True),
        ("save", signal.SIGUSR1, False),
    ):
        options = {"backend": "ddp", "val_batch_size": 2, "index_by": "step"}
        make = partial(Asking, number, in_validation)
        ended: list = []
        try:
            last = trained(Path(directory, name), make, checkpointer={"period": 100}, **options)
        except Preempted as stopped:
            ended = [stopped.code, os.path.basename(stopped.path)]
            again = partial(Asking, 0, False)
            last = trained(Path(directory, name), again, checkpointer={"period": 100}, **options)
        found[name] = [ended, weights(last) == weights(whole), sorted(os.listdir(Path(directory, name)))]
    backend = DDPTrainerBackend(SingleProcess())  # as PyMarlin's users make it
    plain = Trainer(Plain(), arguments(epochs=1, checkpointer_args=UNSAVED), backend)
    plain.train()
    found["given"] = [plain.is_distributed, plain.gradient_accumulation, weights(plain)]
    compiled = trained(Path(directory, "compiled"), Compiled, backend="ddp", epochs=1)
    plain = trained(Path(directory, "compiled"), Plain, backend="ddp", epochs=2)
    found["compiled"] = [list(compiled.module.state_dict()), plain.module.seen[:4], plain.last_epoch]
    found["compiled"].append(compiled.get_state()["conditions"]["optimizer_parameters"])
    trained(Path(directory, "compiled-parts"), Compiled, backend="fsdp2", epochs=1)
    failing = trainer_in(Path(directory, "failing"), module=Plain, backend="ddp")
    if rank == 0:
        writer.write_encoded = full
    found["failed"] = failure(failing.train)
    return found


def full(*args, **options) -> None:
    """A save into a disk without room."""
    raise StorageError("no room", "/full")


def begun(directory: str, backend: str, steps: int) -> dict:
    """Trains some steps and stops."""
    torch.manual_seed(7)
    trainer = trainer_in(directory, module=Plain, backend=backend, train_batch_size=12)
    send_after(trainer, steps)
    with contextlib.suppress(Preempted):
        trainer.train()
    return {"seen": trainer.module.seen, "weights": weights(trainer)}


def continued(directory: str, backend: str, fields: dict) -> dict:
    """Goes on, with another number of ranks."""
    torch.manual_seed(7)
    options = {"module": Plain, "backend": backend, "train_batch_size": 12, "epochs": 1, **fields}
    exact = failure(lambda: trainer_in(directory, **{**options, "exact": True}))
    trainer = trainer_in(directory, **options, checkpointer={"checkpoint": False})
    loaded = weights(trainer)
    trainer.train()
    return {
        "seen": trainer.module.seen, "loaded": loaded, "exact": exact, "weights": weights(trainer),
        "steps": trainer.global_steps_finished,
    }  # fmt: skip
