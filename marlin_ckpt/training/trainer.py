"""The loop over epochs."""

from __future__ import annotations

import logging
import time
from typing import Any

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.checkpointer.default import DefaultCheckpointer
from marlin_ckpt.loading.payload import plain_metrics
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.training import preemption, setting, states, workers
from marlin_ckpt.training.backend import BACKENDS, TrainerBackend
from marlin_ckpt.training.module import ModuleInterface
from marlin_ckpt.training.observer import TrainerObserver
from marlin_ckpt.training.outputs import mean_loss
from marlin_ckpt.training.preemption import Preempted, Signals
from marlin_ckpt.training.resume import conditions
from marlin_ckpt.training.resume.order import Watched
from marlin_ckpt.training.resume.position import Position
from marlin_ckpt.training.trainer_state import TrainerState


class Trainer(TrainerState):
    """Trains a module, saves on the way, and continues from what the checkpointer loads.

    A run that goes on from a checkpoint is the run that was never stopped, bit for bit, wherever it was.

    Attributes:
        module: what is trained.
        args: how.
        trainer_backend: what runs the steps.
        checkpointer: what saves and loads.
        last_epoch: the last epoch done, -1 before the first.
        optimizers, schedulers: the module's.
        seed: what the order of the training data comes from.
    """

    def __init__(
        self,
        module: ModuleInterface,
        args: TrainerArguments,
        trainer_backend: TrainerBackend | None = None,
        checkpointer: AbstractCheckpointer | None = None,
        *,
        observer: TrainerObserver | None = None,
    ) -> None:
        """Loads once, and hands the three states back to the module, to itself and to the backend.

        Args:
            module: what to train.
            args: how.
            trainer_backend: what runs the steps; None: the one that `args.backend` names.
            checkpointer: what saves and loads; None: a `DefaultCheckpointer` of `args.checkpointer_args`.
            observer: told of the progress.

        Raises:
            StateMismatchError: a state was loaded that does not fit, or with `exact` one of other conditions.
            TrainingError: the device is not there.
            Whatever the checkpointer's `load` raises.
        """
        args.check()
        self.device = setting.device_of(args)
        self.module = module
        self.args = args
        self.logger = logging.getLogger(__name__)
        self.logger.setLevel(args.log_level)
        self.trainer_backend = BACKENDS[args.backend]() if trainer_backend is None else trainer_backend
        self.checkpointer = (
            DefaultCheckpointer(args.checkpointer_args) if checkpointer is None else checkpointer
        )
        self.last_epoch = -1
        self.seed = setting.before_training(args)
        self._by_step = args.index_by == "step"
        self._observer = observer
        self._position = Position()
        self._saved: tuple[tuple[int, ...], str | None] = ((), None)
        self._durable: str | None = None
        self._saved_s = time.monotonic()
        self._signals = Signals()

        checkpoint = states.load(self.checkpointer, self.module, self._check_state)
        # What was measured last stays true until an epoch measures anew: a finished run saves it again.
        self._metrics = plain_metrics(checkpoint.metrics if type(checkpoint) is Checkpoint else None)
        self.module.to(self.device)
        self.optimizers, self.schedulers = self._new_optimizers(args.epochs)
        self._conditions = conditions.of(args, self.device, self.module.data_fingerprint(), self.optimizers)
        states.update("trainer", self, checkpoint.trainer_state)
        self.checkpointer.register(*self.optimizers)
        self.trainer_backend.init(self._backend_arguments(self._after_global_step))
        states.update("trainer backend", self.trainer_backend, checkpoint.trainer_backend_state)
        self._take_position(checkpoint.trainer_state)

    def train(self) -> None:
        """Runs what is left of the run, saving on the way; then saves once more, forced, and the model.

        SIGTERM, SIGINT and SIGUSR1 are answered between two global steps, or two batches of a validation:
        each saves, the first two then stop, and a second one of these ends the process at once.

        Raises:
            Preempted: a signal has stopped it; the state is saved.
            DirectoryInUseError: another run saves where this one would.
        """
        with (
            self.checkpointer.running(),
            preemption.listening(really=self.args.handle_signals) as self._signals,
        ):
            self._saved_s = time.monotonic()
            preemption.compare_grace(self.args, self.checkpointer.usual_save_s(), self.logger)
            self._answer()
            epochs = range(self.last_epoch + 1, self.args.epochs)
            if epochs:
                indices = len(epochs) * (self.estimated_global_steps_per_epoch if self._by_step else 1)
                self.checkpointer.check_space(self._state(), self.optimizers, indices)
            for epoch in epochs:
                self._run_epoch(epoch)
            if self.last_epoch >= 0:
                if epochs:
                    self.save_checkpoint(force=True)
                self.save_model_checkpoint()
                self.checkpointer.wait()
                self._tell_saved(None)
            self.module.on_end_train(self.global_steps_finished)

    def _run_epoch(self, epoch: int) -> None:
        batches = self._position.batches(self.total_steps_finished)
        if self._observer is not None:
            done = -(-batches // self.gradient_accumulation)
            steps = self.estimated_global_steps_per_epoch
            self._observer.on_epoch_begin(epoch, self.args.epochs, steps, done)
        self._position.begin_epoch()
        self.module.on_begin_train_epoch(self.global_steps_finished, epoch)
        self._tell_saved(None)
        self.module.train()
        outputs = self.train_epoch()
        with self._position.held():
            self.validate()
        self.module.on_end_train_epoch(self.global_steps_finished, *outputs)
        if self.args.step_schedulers_by == "epoch":
            for scheduler in self.schedulers:
                scheduler.step()
        self.last_epoch = epoch
        self._position.end_epoch(self.total_steps_finished)
        self._metrics = plain_metrics({**mean_loss(outputs), **dict(self.module.get_metrics())})
        if self._observer is not None:
            self._observer.on_epoch_end(epoch, self._metrics)
        if not self._by_step or self.checkpointer.is_due(self._index()):
            self.save_checkpoint()
        self._answer()

    def train_epoch(self) -> list[Any]:
        """Trains on what is left of the epoch's data and returns the outputs collected in all of it."""
        dataloader = self.module.get_train_dataloader(
            sampler=self.train_sampler, batch_size=self.train_step_batch_size
        )
        remaining = self._position.open(
            dataloader, seed=self.seed, epoch=self.last_epoch + 1, batches_completed=self.total_steps_finished
        )
        self._announce(self._position.lost)
        try:
            return list(self.trainer_backend.train_dl(remaining, self.module))
        except BaseException:
            remaining.stop()
            raise

    def validate(self) -> list[Any]:
        """Runs the validation loaders one after the other and returns the last one's collected outputs."""
        loaders = self.module.get_val_dataloaders(
            sampler=self.val_sampler, batch_size=self.val_step_batch_size
        )
        self.module.eval()
        outputs: list[Any] = []
        for key, loader in (loaders if isinstance(loaders, dict) else {"default": loaders}).items():
            workers.prepare(loader)
            outputs = list(self.trainer_backend.validate_dl(Watched(loader, self._answer)))
            self.module.on_end_val_epoch(self.global_steps_finished, *outputs, key=key)
        return outputs

    def save_checkpoint(self, force: bool = False) -> str | None:
        """Hands the three states and the metrics to the checkpointer.

        The index is the last epoch, or within an epoch the one under way; with `index_by: step` it is the
        number of global steps done.

        Args:
            force: save whatever the checkpointer's rules for when to save say.

        Returns:
            the path that the checkpointer returned.
        """
        self._durable = None
        path = self.checkpointer.save(self._state(), self._index(), force)
        if path:
            self._saved, self._saved_s = (self._progress(), path), time.monotonic()
        self._tell_saved(path)
        return path

    def save_model_checkpoint(self) -> None:
        """Hands the module's state alone to the checkpointer, under the index of the last checkpoint."""
        self._tell_saved(self.checkpointer.save_model(self.module.get_state(), self._index()))

    def _state(self) -> Checkpoint:
        return Checkpoint(
            module_interface_state=self.module.get_state(),
            trainer_state=self.get_state(),
            trainer_backend_state=self.trainer_backend.get_state(),
            metrics={} if self._is_within else dict(self._metrics),  # which are of an earlier state
        )

    @property
    def _is_within(self) -> bool:
        return self._position.batches(self.total_steps_finished) > 0

    def _index(self) -> int:
        return self.global_steps_finished if self._by_step else max(self.last_epoch + self._is_within, 0)

    def _progress(self) -> tuple[int, ...]:
        return self.last_epoch, self.global_steps_finished, self.total_steps_finished

    def _after_global_step(self, global_step: int, loss: float) -> None:
        if self._observer is not None:
            self._observer.on_global_step(global_step, loss)
        minutes = self.args.checkpoint_every_minutes
        is_late = minutes is not None and time.monotonic() - self._saved_s >= minutes * 60
        if is_late or (self._by_step and self.checkpointer.is_due(global_step)):
            self.save_checkpoint(force=is_late)
        self._answer()

    def _answer(self) -> None:
        """Does what signals have asked for, where the state can be saved.

        Raises:
            Preempted: one has asked to stop.
        """
        if not (self._signals.stop or self._signals.save):
            return
        self._signals.save = False
        self.checkpointer.wait()
        self._tell_saved(None)
        at, path = self._saved
        # One that was begun in the background may have failed, or been given up.
        if at != self._progress() or path != self._durable:
            path = self.save_checkpoint(force=True)
            self.checkpointer.wait()
            self._tell_saved(None)
        if self._signals.stop:
            raise Preempted(self._signals.stop, path)

    def _tell_saved(self, path: str | None) -> None:
        reports = self.checkpointer.take_reports()
        told: list[tuple[str, int, SaveReport | None]] = [(one.path, one.index, one) for one in reports or ()]
        if reports is None and path:
            told.append((path, self._index(), None))
        for one in told:
            self._durable = one[0]
            if self._observer is not None:
                self._observer.on_save(*one)
