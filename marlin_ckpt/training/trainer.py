"""Trains a module epoch by epoch, saves on the way, and goes on from what was saved."""

from typing import Any

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.checkpoint import Checkpoint, plain_metrics
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.checkpointer.default import DefaultCheckpointer
from marlin_ckpt.checkpointer.hooks import hooks_of
from marlin_ckpt.escaping import OwnLogger
from marlin_ckpt.loading.distributing import has_parts
from marlin_ckpt.training import states, stepping, workers
from marlin_ckpt.training.backend import SingleProcess, TrainerBackend, TrainerBackendArguments, weakly
from marlin_ckpt.training.module import ModuleInterface, wants_to_stop
from marlin_ckpt.training.observer import TrainerObserver, of_rank
from marlin_ckpt.training.outputs import mean_loss
from marlin_ckpt.training.parallel import backends, gathering, joining
from marlin_ckpt.training.parallel.batches import watched
from marlin_ckpt.training.parallel.shared import shared
from marlin_ckpt.training.resume.continuation import Continuation
from marlin_ckpt.training.resume.order import Share
from marlin_ckpt.training.resume.restorable import Restorable
from marlin_ckpt.training.saves import Asked, Saves


class Trainer(Restorable):
    """Trains a module, saves while it does, and continues from what the checkpointer loads.

    A resumed run is, bit for bit, the run that was never stopped, also when it resumes within an epoch.

    Attributes:
        last_epoch: the last epoch that was finished; -1 before the first.
        optimizers: the module's optimizers.
        schedulers: the module's schedulers.
        seed: the seed of the order of the training data.
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
        """Loads a checkpoint, if there is one, and restores the module, itself and the backend from it.

        Args:
            module: what to train.
            args: how to train it.
            trainer_backend: what runs the steps; None makes the one that `args.backend` names.
            checkpointer: what saves and loads; None makes a `DefaultCheckpointer`.
            observer: called as training goes on.

        Raises:
            StateMismatchError: a loaded state does not fit; or with `exact`, conditions differ.
            TrainingError: the device is not there, or an optimizer or scheduler cannot be stepped.
            MarlinError: as the checkpointer's `load`.
        """
        args.check()
        self.trainer_backend = backends.made_by(args) if trainer_backend is None else trainer_backend
        self._ranks, self.device = joining.join(args, self.trainer_backend)
        self.module, self.args = module, args
        self.logger = OwnLogger(__name__)
        self.logger.setLevel(joining.level(args.log_level, self._ranks))
        if checkpointer is None:
            checkpointer = DefaultCheckpointer(args.checkpointer_args)
        self.checkpointer = checkpointer
        self.last_epoch = -1
        self.seed = joining.seed_training(args, self._ranks)
        self._by_step = args.index_by == "step"
        self._continuation = Continuation(args, self.logger, self._ranks)
        self._position = self._continuation.position
        self._observer = of_rank(observer, is_main=self._ranks.is_main)
        self._saves = Saves(self._observer, self._ranks)
        self._steps_per_epoch: int | None = None
        self._validated: dict[str, int] = {}  # samples of the last validation, by the keys of its loaders
        self._maker = stepping.Maker(module)
        backends.take(self.trainer_backend, self._ranks, self.module, self.device)
        reads_into = states.can_read_into(self.checkpointer, self.module)
        if reads_into:
            # Nothing that it makes depends on its state: what it lacks is known before anything is loaded.
            self.module.to(self.device)
            self._steps()
        # Of several ranks none reads the parts of a sharded checkpoint that no live object takes.
        is_one_of_many = reads_into and self._ranks.world_size > 1
        takers = self._make(None)[0] if is_one_of_many or has_parts(self.module.parameters()) else ()
        checkpoint = self._mine(states.load(self._shared, self.module, self._check_state, takers))
        # What was measured last stays true until an epoch measures anew: a finished run saves it again.
        self._metrics = plain_metrics(checkpoint.metrics if type(checkpoint) is Checkpoint else None)
        self.module.to(self.device)
        self.optimizers, self.schedulers = self._make(checkpoint.trainer_state)
        self._conditions = self._conditions_of((self.optimizers, self.schedulers))
        made = self._conditions, self.module, self.optimizers
        backends.check_made(self.trainer_backend, args, *made)
        stepping.by_epoch(self.schedulers, args)
        states.update("trainer", self, checkpoint.trainer_state)
        hooks_of(self._shared).register(*self.optimizers)
        self.trainer_backend.init(
            TrainerBackendArguments(
                model=self.module,
                device=self.device,
                optimizers=self.optimizers,
                schedulers=self.schedulers if args.step_schedulers_by == "step" else (),
                gradient_accumulation=self.gradient_accumulation,
                max_train_steps_per_epoch=args.max_train_steps_per_epoch,
                max_val_steps_per_epoch=args.max_val_steps_per_epoch,
                clip_grads=args.clip_grads,
                max_grad_norm=args.max_grad_norm,
                on_global_step=weakly(self._after_global_step),
                amp_dtype=args.amp_dtype,
            )
        )
        states.update("trainer backend", self.trainer_backend, checkpoint.trainer_backend_state)
        if isinstance(self.trainer_backend, (SingleProcess, backends.RanksTrainerBackend)):
            self._continuation.announce(self.trainer_backend.lost)
        size, world_size = self.train_step_batch_size, self._ranks.world_size
        self._continuation.load_position(
            checkpoint.trainer_state, self.total_steps_finished, size, world_size
        )
        self._maker = stepping.Maker(module)  # what is made from now on is new

    def train(self) -> None:
        """Runs what is left of the run, and saves as it goes; at the end once more, and the model.

        SIGTERM, SIGINT and SIGUSR1 are answered between two global steps or two batches of a validation. Each
        of them saves; the first two then stop the run, and a second one of these ends the process at once.
        Called again after a stop, this continues where it stopped.

        Raises:
            Preempted: a signal stopped the run; the state is saved.
            MarlinError: arguments are wrong, a save failed, another run saves there, or `exact` forbids it.
        """
        self.args.check()
        with self._saves.running(self.args, self._shared, self.logger, self._place):
            try:
                with self._ranks.communicating():
                    self._run()
            except BaseException:
                self._position.pause(self.total_steps_finished)
                raise

    def _run(self) -> None:
        self._answer()
        epochs = range(self.last_epoch + 1, 0 if self._is_stopped() else self.args.epochs)
        if epochs:
            indices = len(epochs) * (self._steps() if self._by_step else 1)
            hooks_of(self._shared).check_space(self._state(), self.optimizers, indices)
        for epoch in epochs:
            self._run_epoch(epoch)
            if self._is_stopped():
                break
        if epochs:
            with self._saves.last_one():
                self.save_checkpoint(force=True)
        if self.last_epoch >= 0:
            self.save_model_checkpoint()
            self._saves.settle(self._shared)
        self.module.on_end_train(self.global_steps_finished)

    def _is_stopped(self) -> bool:
        """Whether the module wants no further epoch to begin, where one would; that is logged."""
        done, of = self.last_epoch + 1, self.args.epochs
        if self._is_within or done >= of or not self._ranks.told(wants_to_stop(self.module)):
            return False
        self.logger.info("The run ends after %d of %d epochs: the module has set should_stop.", done, of)
        return True

    def _run_epoch(self, epoch: int) -> None:
        if self._observer is not None:
            done = -(-self._position.batches(self.total_steps_finished) // self.gradient_accumulation)
            self._observer.on_epoch_begin(epoch, self.args.epochs, self._steps(), done)
        self._position.begin_epoch()
        self.module.on_begin_train_epoch(self.global_steps_finished, epoch)
        self._saves.report(self._shared)
        self.module.train()
        outputs = self.train_epoch()
        with self._position.held():
            self.validate()
        self.module.on_end_train_epoch(self.global_steps_finished, *outputs)
        schedulers = stepping.by_epoch(self.schedulers, self.args)
        stepping.step_without_metric(schedulers)
        self.last_epoch = epoch
        self._position.end_epoch(self.total_steps_finished)
        self.trainer_backend.end_epoch()
        measured = plain_metrics({**mean_loss(outputs), **dict(self.module.get_metrics())})
        self._metrics = gathering.agreed(self._ranks, measured, self._validated)
        stepping.step_with_metric(schedulers, self._metrics, self.args.plateau_metric, self.logger)
        self._saves.measured(self._shared, self._place(), self._metrics)
        if not self._by_step or hooks_of(self._shared).is_due(self._index()):
            self.save_checkpoint()
        self._answer()

    def train_epoch(self) -> list[Any]:
        """Trains on what is left of the epoch's data and returns the outputs of the whole epoch."""
        sampler, size = self.train_sampler, self.train_step_batch_size
        made = self.module.get_train_dataloader(sampler=sampler, batch_size=size)
        loader = () if made is None else made  # a module that is only validated
        backends.check_data(self.trainer_backend, loader, self.module)
        place: dict[str, Any] = {"seed": self.seed, "epoch": self.last_epoch + 1, "batch_size": size}
        place |= {"share": Share(self._ranks.rank, self._ranks.world_size)}
        with self._position.open(loader, **place, batches_completed=self.total_steps_finished) as remaining:
            self._continuation.go_on()
            return list(self.trainer_backend.train_dl(remaining, self.module))

    def validate(self) -> list[Any]:
        """Runs the validation loaders that are not None; returns the outputs of the last one."""
        sampler, size = self.val_sampler, self.val_step_batch_size
        loaders = self.module.get_val_dataloaders(sampler=sampler, batch_size=size)
        self.module.eval()
        outputs: list[Any] = []
        self._validated = {}
        for key, loader in (loaders if isinstance(loaders, dict) else {"default": loaders}).items():
            if loader is None:
                continue
            workers.prepare(loader)
            with watched(loader, self._answer, self._ranks) as batches:
                outputs = list(self.trainer_backend.validate_dl(batches))
            self._validated[key] = backends.seen(self.trainer_backend)
            self.module.on_end_val_epoch(self.global_steps_finished, *outputs, key=key)
        return outputs

    def save_checkpoint(self, force: bool = False) -> str | None:
        """Gives the three states and the metrics to the checkpointer, and returns its path.

        The index is the current or last epoch, or with `index_by: step` the number of global steps done.
        """
        if path := self._saves.held(self._shared, self._place()):
            return path
        return self._saves.save(self._shared, self._state(), self._index(), self._place(), force)

    def save_model_checkpoint(self) -> None:
        """Gives the module's state alone to the checkpointer, under the index of the last checkpoint."""
        path = self._shared.save_model(self.module.get_state(), self._index())
        self._saves.report(self._shared, path, self._index())

    @property
    def _shared(self) -> AbstractCheckpointer:
        """The checkpointer, as all ranks call it."""
        return shared(self.checkpointer, self._ranks)

    def _index(self) -> int:
        return self.global_steps_finished if self._by_step else max(self.last_epoch + self._is_within, 0)

    def _place(self) -> tuple[int, ...]:
        return self.last_epoch, self.global_steps_finished, self.total_steps_finished

    def _after_global_step(self, global_step: int, loss: float) -> None:
        if not self.is_distributed:
            self._observe(global_step, loss)
        asked = self._saves.agree(
            lambda: self._by_step and hooks_of(self.checkpointer).is_due(global_step),
            self.args.checkpoint_every_minutes,
            loss,
        )
        if self.is_distributed:
            self._observe(global_step, asked.loss)  # of all ranks
        if asked.is_late or asked.is_due:
            self.save_checkpoint(force=asked.is_late)
            self._answer()  # there may be a signal since
        else:
            self._answer(asked)

    def _observe(self, global_step: int, loss: float) -> None:
        if self._observer is not None:
            self._observer.on_global_step(global_step, loss)

    def _answer(self, asked: Asked | None = None) -> None:
        """Does what signals have asked for; called where the state can be saved."""
        self._saves.answer(self._shared, self._place(), lambda: self.save_checkpoint(force=True), asked)
