"""The backends that run the steps of a run on many ranks; their names are PyMarlin's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distribution import FsdpArguments
from marlin_ckpt.errors import TrainingError
from marlin_ckpt.training.backend import SingleProcess, TrainerBackend, TrainerBackendArguments
from marlin_ckpt.training.mixed_precision import SingleProcessAmp
from marlin_ckpt.training.module import CallbackInterface, ModuleInterface, SamplerClass
from marlin_ckpt.training.parallel import alike, names
from marlin_ckpt.training.parallel.batches import EveryNth
from marlin_ckpt.training.parallel.sharing import DataParallel, Sharing
from marlin_ckpt.training.resume.order import EpochSampler, Share


class AbstractTrainerBackendDecorator(TrainerBackend):
    """A backend that has another one run the steps; PyMarlin's.

    Attributes:
        trainer_backend: the other one.
    """

    def __init__(self, trainer_backend: SingleProcess) -> None:
        """Takes the backend that runs the steps."""
        self.trainer_backend = trainer_backend

    def init(self, args: TrainerBackendArguments) -> None:
        """Hands on the arguments."""
        self.trainer_backend.init(args)

    def train_dl(self, dataloader: Iterable[Any], callback: CallbackInterface) -> list[Any]:
        """Trains on the batches of a loader and returns their outputs."""
        return self.trainer_backend.train_dl(dataloader, callback)

    def validate_dl(self, dataloader: Iterable[Any]) -> list[Any]:
        """Runs validation steps on the batches of a loader and returns their outputs."""
        return self.trainer_backend.validate_dl(dataloader)

    def get_batches_completed(self) -> int:
        """Training batches done in the whole run."""
        return self.trainer_backend.get_batches_completed()

    def get_global_steps_completed(self) -> int:
        """Optimizer steps done in the whole run."""
        return self.trainer_backend.get_global_steps_completed()

    def end_epoch(self) -> None:
        """Ends an epoch."""
        self.trainer_backend.end_epoch()

    @property
    def train_sampler(self) -> SamplerClass:
        """The class of samplers for the training data."""
        return self.trainer_backend.train_sampler

    @property
    def val_sampler(self) -> SamplerClass:
        """The class of samplers for the validation data."""
        return self.trainer_backend.val_sampler

    def get_state(self) -> dict[str, Any]:
        """The backend's part of a checkpoint."""
        return self.trainer_backend.get_state()

    def update_state(self, state: Mapping[str, Any] | None) -> None:
        """Restores what `get_state` returned."""
        self.trainer_backend.update_state(state)


class RanksTrainerBackend(AbstractTrainerBackendDecorator):
    """What the backends for many ranks have in common; the outputs that they return are those of all ranks.

    A trainer calls `join` and `take` before it loads a state.

    Attributes:
        sharing: what the ranks do together.
    """

    def __init__(self, trainer_backend: SingleProcess, sharing: Sharing) -> None:
        """Takes what runs the steps of this rank, and what the ranks do together.

        Raises:
            TrainingError: another backend than a `SingleProcess` is to run the steps.
        """
        if not isinstance(trainer_backend, SingleProcess):
            what = f"{type(self).__name__} cannot have {type(trainer_backend).__name__} run the steps"
            raise TrainingError(what, hint="give it a SingleProcess, or a class derived from that")
        super().__init__(trainer_backend)
        self.sharing = trainer_backend.sharing = sharing

    @property
    def lost(self) -> list[str]:
        """What a state from within an epoch could not hold, one sentence each."""
        return self.trainer_backend.lost

    def join(self, ranks: Ranks) -> None:
        """Takes the ranks of the run."""
        self.sharing.ranks = ranks

    def take(self, module: ModuleInterface, device: torch.device) -> None:
        """Takes the module, on its device, before it loads its state and makes its optimizers."""
        with self.sharing.ranks.communicating():
            self.sharing.take(module, device)

    def init(self, args: TrainerBackendArguments) -> None:
        """Takes the arguments, with a module that has its state."""
        super().init(args)
        with self.sharing.ranks.communicating():
            self.sharing.begin(args.model)

    def end_epoch(self) -> None:
        """Ends an epoch, at all ranks."""
        super().end_epoch()
        self.sharing.end_epoch()

    @property
    def train_sampler(self) -> SamplerClass:
        """An order that the seed and the epoch decide, of which each rank takes its part."""
        ranks = self.sharing.ranks
        return partial(EpochSampler, share=Share(ranks.rank, ranks.world_size))

    @property
    def val_sampler(self) -> SamplerClass:
        """The data's own order, of which each rank takes its part."""
        ranks = self.sharing.ranks
        return partial(EveryNth, rank=ranks.rank, world_size=ranks.world_size)


class DDPTrainerBackend(RanksTrainerBackend):
    """Has a copy of the module on each rank, and averages their gradients; PyMarlin's."""

    def __init__(self, trainer_backend: SingleProcess, gather_frequency: int | None = None) -> None:
        """Takes what runs the steps of this rank.

        Args:
            trainer_backend: a `SingleProcess`, or one with mixed precision.
            gather_frequency: PyMarlin's; see `DistributedTrainingArguments`.
        """
        super().__init__(trainer_backend, DataParallel())
        self.gather_frequency = gather_frequency


class FSDPTrainerBackend(RanksTrainerBackend):
    """Has a part of the module on each rank: torch's FSDP2."""

    def __init__(self, trainer_backend: SingleProcess, args: FsdpArguments | None = None) -> None:
        """Takes what runs the steps of this rank.

        Args:
            trainer_backend: a `SingleProcess`; mixed precision is among `args`.
            args: how the module is sharded; None: the defaults.
        """
        # Imported here: torch's FSDP takes most of a second, which a run in one process need not wait for.
        from marlin_ckpt.training.parallel.fully_sharded import FullySharded  # noqa: PLC0415

        super().__init__(trainer_backend, FullySharded(args or FsdpArguments()))


def build_trainer_backend(name: str, fsdp: FsdpArguments | None = None) -> TrainerBackend:
    """Makes the backend that `trainer.backend` names.

    Args:
        name: `sp`, `sp-amp`, `ddp`, `ddp-amp` or `fsdp2`.
        fsdp: for the last; None: the defaults.
    """
    made: dict[str, Callable[[], TrainerBackend]] = {
        "sp": SingleProcess,
        "sp-amp": SingleProcessAmp,
        "ddp": lambda: DDPTrainerBackend(SingleProcess()),
        "ddp-amp": lambda: DDPTrainerBackend(SingleProcessAmp()),
        "fsdp2": lambda: FSDPTrainerBackend(SingleProcess(), fsdp),
    }
    return made[name]()


def made_by(args: TrainerArguments) -> TrainerBackend:
    """The backend that a trainer's arguments name."""
    return build_trainer_backend(args.backend, args.fsdp)


def take(backend: TrainerBackend, ranks: Ranks, module: ModuleInterface, device: torch.device) -> None:
    """Lets a backend for many ranks take them and the module, whose parameters must be alike at all.

    Args:
        backend: the trainer's, of any kind.
        ranks: of the run.
        module: before it loads its state.
        device: that it trains on.

    Raises:
        TrainingError: the ranks have made modules with different parameters, or with none.
    """
    if isinstance(backend, RanksTrainerBackend):
        backend.join(ranks)
        alike.check(ranks, module, with_buffers=backend.sharing.has_own_buffers)
        names.keep_plain(module)
        backend.take(module, device)


def check_made(
    backend: TrainerBackend,
    args: TrainerArguments,
    conditions: Mapping[str, Any],
    module: ModuleInterface,
    optimizers: Iterable[torch.optim.Optimizer],
) -> None:
    """Refuses what the ranks of a run have made otherwise, or not for all of them.

    Args:
        backend: the trainer's, of any kind, with its ranks.
        args: the trainer's.
        conditions: of the run.
        module: what is trained.
        optimizers: the module's.

    Raises:
        TrainingError: ranks would train in different ways, or an optimizer steps what is not the module's.
    """
    if isinstance(backend, RanksTrainerBackend):
        alike.check_owners(backend.sharing.ranks, module, optimizers)
        alike.check_arguments(backend.sharing.ranks, args, conditions)


def check_data(backend: TrainerBackend, loader: Any, module: ModuleInterface) -> None:
    """Refuses training data that the ranks of a run do not have in common, and warns of some other faults.

    Args:
        backend: the trainer's, of any kind.
        loader: of the training data, before its first batch.
        module: what is trained.

    Raises:
        TrainingError: each rank would take a part of other data, or there are fewer samples than ranks.
    """
    if isinstance(backend, RanksTrainerBackend):
        backend.sharing.check_data(loader, str(module.data_fingerprint()))


def seen(backend: TrainerBackend) -> int:
    """The samples of the last validation that this rank has looked at, where its backend counts them."""
    return backend.sharing.seen if isinstance(backend, RanksTrainerBackend) else 0


def has_own_buffers(backend: TrainerBackend) -> bool:
    """Whether the module has other buffers at each rank, which a checkpoint is to hold."""
    return isinstance(backend, RanksTrainerBackend) and backend.sharing.has_own_buffers


def before_save(backend: TrainerBackend, module: ModuleInterface) -> None:
    """Called by all ranks before they take the module's state for a checkpoint."""
    if isinstance(backend, RanksTrainerBackend):
        backend.sharing.before_save(module)
