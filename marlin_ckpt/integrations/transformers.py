"""Checkpoints of Transformers' trainers that appear as whole folders, with checksums.

`trainer = protect(Trainer(...))`, then `trainer.train(resume_from_checkpoint=True)`.
"""

import contextlib
import functools
import os
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from marlin_ckpt.directory.transaction import Transaction
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.integrations.agreement import agreed, fill_together
from marlin_ckpt.integrations.transformers_private import uploads_without_ours
from marlin_ckpt.naming import Kind
from marlin_ckpt.operations.folders import numbered
from marlin_ckpt.operations.folders import transformers as folders
from marlin_ckpt.saving.recording import Recording, recorded_folder
from marlin_ckpt.urls import refuse

_PARALLEL = ("not_parallel", "not_distributed", "distributed")  # of transformers.training_args.ParallelMode
_FOLDERS = "the folders of Transformers"
_warn_once = functools.cache(get_logger(__name__).warning)


def protect(trainer: Any) -> Any:
    """Makes a trainer save whole `checkpoint-N` folders and resume from intact ones.

    Args:
        trainer: a Trainer of Transformers, or of a class that derives from it.

    Returns:
        the same trainer, which is now a `MarlinCheckpoints` too.

    Raises:
        StorageError: its folders are to be in an object store.
    """
    refuse(trainer.args.output_dir, _FOLDERS)
    kind = type(trainer)
    if not issubclass(kind, MarlinCheckpoints):
        trainer.__class__ = type(kind.__name__, (MarlinCheckpoints, kind), {"__module__": kind.__module__})
    return trainer


class MarlinCheckpoints(Trainer):
    """A Trainer of Transformers each of whose checkpoints appears as a whole; also a base for your own.

    A folder `checkpoint-N` gets its name when all its files are durable, with a manifest of their checksums,
    the step and its metrics. Only then are others removed for `save_total_limit`. A run resumes only from a
    folder whose checksums hold. With DeepSpeed, FSDP, SageMaker and on TPUs everything is left to
    Transformers.
    """

    _staging = ""  # the directory that stands for the run's while a checkpoint is written
    _recording: Recording | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as Transformers' `Trainer.train` does, and verifies the checkpoint that it resumes from.

        Args:
            resume_from_checkpoint: True for the newest intact folder; newer ones that are passed over are
                logged. Or the path of a folder.
            args: as for `Trainer.train`.
            kwargs: as for `Trainer.train`, which also says what is returned.

        Raises:
            CorruptCheckpointError: the named folder, or every folder, is damaged or incomplete.
            CheckpointNotFoundError: there is no folder of that name.
            StorageError: the folders are to be in an object store.
        """
        refuse(self.args.output_dir, _FOLDERS)
        self._recording = Recording("Transformers")
        if resume_from_checkpoint and self._is_covered():
            named = "" if resume_from_checkpoint is True else str(resume_from_checkpoint)
            needed = folders.needed(save_only_model=self.args.save_only_model)
            found = agreed(lambda: folders.start(self.args.output_dir, named, needed))
            if found:  # else Transformers says that there is nothing
                resume_from_checkpoint, passed_over = found
                self._recording.continues(found[0], numbered.manifest(found[0]), passed_over)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if not self._is_covered():
            super()._save_checkpoint(model, trial)
            return
        run, step = self._get_output_dir(trial), self.state.global_step
        name = f"{PREFIX_CHECKPOINT_DIR}-{step}"
        self._recording = history = self._recording or Recording("Transformers")
        metrics = folders.metrics_at(step, self.state.log_history)
        manifest = history.lineage.manifest(Kind.CHECKPOINT, step, metrics, {}, {})
        whole = Transaction(run, name, manifest=manifest)
        best, stock = self.state.best_model_checkpoint, super()._save_checkpoint

        def save() -> None:
            stock(model, trial)
            self._name_best(run, name)

        try:
            with contextlib.ExitStack() as stack:
                self._staging = agreed(lambda: stack.enter_context(recorded_folder(history, whole)))
                fill_together(self._staging, save)
                agreed(lambda: folders.lift(os.path.join(self._staging, name)))
                agreed(stack.close)
        except BaseException:
            self.state.best_model_checkpoint = best  # else it would name a folder that is nowhere
            raise
        finally:
            self._staging = ""
        if self.args.push_to_hub:
            self._push_from_checkpoint(whole.path)
        if limit := self.args.save_total_limit:
            kept = [whole.path, self.state.best_model_checkpoint or whole.path]
            why = f"save_total_limit is {limit}"
            agreed(lambda: history.dropped(folders.rotate(run, limit, kept), why))

    def _name_best(self, run: str, name: str) -> None:
        """Names the best checkpoint by the path that it will have, in the file of the trainer's state too."""
        best = f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        path, named = os.path.join(run, best), self.state.best_model_checkpoint
        if best == name or os.path.isdir(path):
            self.state.best_model_checkpoint = path
            if path != named and self.args.should_save:
                self.state.save_to_json(os.path.join(self._staging, name, folders.STATE))

    def _get_output_dir(self, trial: Any) -> Any:
        return self._staging or super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._staging:  # what is uploaded has its name already
            with uploads_without_ours():
                super()._push_from_checkpoint(checkpoint_folder)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Uploads the directory as `Trainer.push_to_hub` does, but for our own folders in it."""
        with uploads_without_ours():
            return super().push_to_hub(*args, **kwargs)

    def _load_best_model(self) -> None:
        if self._is_covered():
            agreed(lambda: folders.check(self.state.best_model_checkpoint, ()))
        super()._load_best_model()

    def _is_covered(self) -> bool:
        """Whether the first process can publish a checkpoint as one folder; if not, the log says why once."""
        others = {
            "DeepSpeed": self.is_deepspeed_enabled,
            "FSDP": self.is_fsdp_enabled,
            "this kind of parallel training": self.args.parallel_mode.value not in _PARALLEL,
            "save_on_each_node": self.args.save_on_each_node and self.args.world_size > 1,
        }
        reason = next((name for name, is_so in others.items() if is_so), "")
        if reason:
            _warn_once("With %s checkpoints are left to Transformers: not atomic, not verified.", reason)
        return not reason
