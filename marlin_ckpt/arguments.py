"""The dataclasses behind the sections of the YAML, with their defaults and bounds."""

import os
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from marlin_ckpt.errors import Fault, StorageError
from marlin_ckpt.fields import Checked, PathText, extension_fault, name_part_fault, suggestion
from marlin_ckpt.keep import RetentionArguments

_LOG_LEVELS = {"choices": ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}
_NOT_EMPTY = {"required": "must not be empty"}


def _checkpoints_here() -> str:
    try:
        return os.path.join(os.getcwd(), "checkpoints")
    except OSError as error:
        raise StorageError.of_working_directory(error) from error


def _outside_fault(filename: PathText) -> str:
    path = PurePath(filename)
    if path.is_absolute() or ".." in path.parts:
        return f"must stay inside load_dir, but is {os.fspath(filename)!r}"
    return ""


@dataclass
class DefaultCheckpointerArguments(Checked):
    """What `DefaultCheckpointer` does; PyMarlin's fields with PyMarlin's defaults, and more.

    A plain mutable dataclass: set a field between two calls and the next call obeys it, and checks again.

    Attributes:
        checkpoint: save at all; everything else only says when, where and how.
        delete_existing_checkpoints: at construction, remove the files of `file_ext` directly in `save_dir`.
        period: save when the index is a multiple of it, or when forced; `auto`: as often as `max_overhead`
            allows.
        save_dir: where checkpoints are written; made when it is missing.
        model_state_save_dir: where model files are written; nothing: they are not written.
        load_dir: where to load from, searched with its sub-directories; nothing: start fresh.
        load_filename: the file under `load_dir` to load; nothing: the one with the greatest index.
        file_prefix: what the names of files start with: `{file_prefix}_{index}.{file_ext}`.
        file_ext: their extension, without its dot.
        log_level: the least level of what it logs; the level of Python's logger is yours to set.
        max_overhead: with `period: auto`, the share of the time that saves may cost; 0.035 is the bound of
            CheckFreq (FAST '21).
        mean_time_between_failures_hours: of the machine; with `period: auto`, never save more often than
            loses least to saves and failures together.
        async_save: copy the state aside and write the copy while training goes on; takes as much memory as
            the state.
        overlap: with `async_save`, copy what a known optimizer owns in the background too; its next step
            waits for what is left. Writes to such tensors outside of a step are noticed by autograd's count
            of changes, and the save is given up; writes through `.data` are not counted.
        check_overlap: compare checksums of the tensors and their copies, so that writes through `.data` are
            noticed as well; costs about half of what copying at once does.
        when_busy: with `async_save`, what a save does while the one before it is still under way: `wait`, or
            `skip` (a forced one waits all the same).
        on_save_error: what a save that fails does: `raise`, with `async_save` at the next call, or `warn`
            and go on.
        keep: which checkpoints of the run stay in `save_dir`; nothing: all of them.
        check_space: refuse to begin a run for whose checkpoints, as far as `keep` keeps them, the disk has no
            room.
        weights_only: refuse files that would import anything beyond plain values and tensors. False runs
            whatever code a file names: only for files of your own.
        resume_from: a checkpoint to load instead of what `load_dir` and `load_filename` name.

    Raises:
        ArgumentsError: at construction, naming every field that is wrong.
    """

    checkpoint: bool = True
    delete_existing_checkpoints: bool = False
    period: int | Literal["auto"] = field(default=1, metadata={"minimum": 1})
    save_dir: PathText = field(default_factory=_checkpoints_here, metadata=_NOT_EMPTY)
    model_state_save_dir: PathText | None = field(default_factory=_checkpoints_here)
    load_dir: PathText | None = None
    load_filename: PathText | None = field(default=None, metadata={"check": _outside_fault})
    file_prefix: str = field(default="model", metadata={"check": name_part_fault})
    file_ext: str = field(default="pt", metadata={"check": extension_fault})
    log_level: str = field(default="INFO", metadata=_LOG_LEVELS)
    max_overhead: float = field(default=0.035, metadata={"above": 0, "maximum": 0.5})
    mean_time_between_failures_hours: float | None = field(default=None, metadata={"above": 0})
    async_save: bool = False
    overlap: bool = True
    check_overlap: bool = False
    when_busy: str = field(default="wait", metadata={"choices": ("wait", "skip")})
    on_save_error: str = field(default="raise", metadata={"choices": ("raise", "warn")})
    keep: RetentionArguments | None = None
    check_space: bool = True
    weights_only: bool = True
    resume_from: PathText | None = field(default=None, metadata={"yaml": False})


@dataclass
class TrainerArguments(Checked):
    """How `Trainer` trains; PyMarlin's names and defaults where it has them.

    Attributes:
        epochs: how many epochs the run has in all, those done before a resume included.
        train_batch_size: samples behind one optimizer step.
        val_batch_size: samples in one validation batch.
        gpu_batch_size_limit: samples that fit the device at once; a larger batch is accumulated.
        max_train_steps_per_epoch: optimizer steps after which an epoch ends early; nothing: all data.
        max_val_steps_per_epoch: validation batches after which validation ends early; nothing: all data.
        clip_grads: clip the norm of the gradients before each step.
        max_grad_norm: the norm to clip to.
        reset_optimizers_schedulers: after a load, make new optimizers and schedulers instead of going on
            with the saved ones.
        device: `auto` (CUDA where there is one and `use_gpu` allows it, else the CPU) or a device's name as
            torch spells it, such as `cuda:1`.
        use_gpu: whether `auto` may choose CUDA.
        backend: how the steps are run; `sp`: in this process; `sp-amp`: with automatic mixed precision.
        amp_dtype: with `sp-amp`: `bfloat16`, `float16`, or `auto`, which prefers the first.
        step_schedulers_by: whether the schedulers step after each global `step` or each `epoch`.
        plateau_metric: with `step_schedulers_by: epoch`, what ReduceLROnPlateau is stepped with: `train_loss`
            or a name that `get_metrics` returns; nothing: `val_loss`, or `train_loss` where there is none.
        seed: of the module's first weights, the order of the data, and all else that is drawn; nothing: what
            the generators happen to hold. A run that goes on keeps that of its beginning.
        deterministic: have torch choose deterministic algorithms, or refuse what has none.
        index_by: what checkpoints are counted by, in `period` and in the names of their files: `epoch`, or
            global `step`.
        checkpoint_every_minutes: save also when so much time has passed since the last save.
        handle_signals: answer SIGTERM and SIGINT by saving and stopping, and SIGUSR1 by saving.
        preempt_grace_seconds: what a machine leaves between a signal and the end; when a save takes longer,
            the log says so.
        exact: refuse to go on under conditions under which the run would not be the same run.
        log_level: the least level of what it logs; the level of Python's logger is yours to set.
        checkpointer_args: for the `DefaultCheckpointer` that the trainer makes when it is given none; in
            YAML this is the section `checkpointer`.

    Raises:
        ArgumentsError: at construction, naming every field that is wrong.
    """

    epochs: int = field(default=1, metadata={"minimum": 0})
    train_batch_size: int = field(default=1, metadata={"minimum": 1})
    val_batch_size: int = field(default=1, metadata={"minimum": 1})
    gpu_batch_size_limit: int = field(default=512, metadata={"minimum": 1})
    max_train_steps_per_epoch: int | None = field(default=None, metadata={"minimum": 1})
    max_val_steps_per_epoch: int | None = field(default=None, metadata={"minimum": 1})
    clip_grads: bool = True
    max_grad_norm: float = field(default=1.0, metadata={"above": 0})
    reset_optimizers_schedulers: bool = False
    device: str = field(default="auto", metadata=_NOT_EMPTY)
    use_gpu: bool = True
    backend: str = field(default="sp", metadata={"choices": ("sp", "sp-amp")})
    amp_dtype: str = field(default="auto", metadata={"choices": ("auto", "bfloat16", "float16")})
    step_schedulers_by: str = field(default="step", metadata={"choices": ("step", "epoch")})
    plateau_metric: str | None = None
    seed: int | None = field(default=None, metadata={"minimum": 0, "maximum": 2**63 - 1})
    deterministic: bool = False
    index_by: str = field(default="epoch", metadata={"choices": ("epoch", "step")})
    checkpoint_every_minutes: float | None = field(default=None, metadata={"above": 0})
    handle_signals: bool = True
    preempt_grace_seconds: float = field(default=30.0, metadata={"above": 0})
    exact: bool = False
    log_level: str = field(default="INFO", metadata=_LOG_LEVELS)
    checkpointer_args: DefaultCheckpointerArguments = field(
        default_factory=DefaultCheckpointerArguments, metadata={"yaml": False}
    )


@dataclass
class TextArguments(Checked):
    """`module.name: text`, a character-level transformer language model over text files.

    Attributes:
        name: `text`.
        files: the UTF-8 text files to learn, in this order.
        width: the size of the residual stream; a multiple of `heads`. GPT-2 small: 768.
        depth: the number of blocks. GPT-2 small: 12.
        heads: the attention heads of a block. GPT-2 small: 12.
        context: the characters that a prediction may look back on. GPT-2 small: 1024.
        vocabulary_size: rows of the embedding, at least the number of distinct characters; nothing: just
            as many. GPT-2 small: 50257.
        dropout: the share of activations dropped in training.
        learning_rate: AdamW's.
    """

    name: str = "text"
    files: list[str] = field(default_factory=list, metadata={"required": "names no file to learn from"})
    width: int = field(default=64, metadata={"minimum": 1})
    depth: int = field(default=2, metadata={"minimum": 1})
    heads: int = field(default=4, metadata={"minimum": 1})
    context: int = field(default=64, metadata={"minimum": 2})
    vocabulary_size: int | None = field(default=None, metadata={"minimum": 1})
    dropout: float = field(default=0.0, metadata={"minimum": 0})
    learning_rate: float = field(default=1e-3, metadata={"above": 0})

    def faults(self) -> list[Fault]:
        """Everything that is wrong with the fields now."""
        found = super().faults()
        told = {fault.field for fault in found}
        if not told & {"width", "heads"} and self.width % self.heads:
            found.append(Fault("width", f"must be a multiple of heads ({self.heads}), but is {self.width}"))
        if "dropout" not in told and not self.dropout < 1:
            found.append(Fault("dropout", f"must be below 1, but is {self.dropout}"))
        return found


@dataclass
class SpiralArguments(Checked):
    """`module.name: spiral`, a classifier of points on spiral arms, for jobs of a second.

    Attributes:
        name: `spiral`.
        points: how many points are generated, a fifth of them for validation.
        arms: the number of classes.
        width: the size of the hidden layers.
        learning_rate: AdamW's.
        data_seed: what the points are generated from.
    """

    name: str = "spiral"
    points: int = field(default=600, metadata={"minimum": 10})
    arms: int = field(default=3, metadata={"minimum": 2})
    width: int = field(default=32, metadata={"minimum": 1})
    learning_rate: float = field(default=1e-2, metadata={"above": 0})
    data_seed: int = field(default=0, metadata={"minimum": 0, "maximum": 2**63 - 1})


def _import_path_fault(name: str) -> str:
    package, _, cls = name.partition(":")
    if cls.isidentifier() and all(part.isidentifier() for part in package.split(".")):
        return ""
    expected = f"one of {', '.join(MODULE_ARGUMENTS)} or my_package.my_file:MyModule"
    return f"expected {expected}, not {name!r}{suggestion(name, MODULE_ARGUMENTS)}"


@dataclass
class ImportedModuleArguments(Checked):
    """`module.name: my_package.my_file:MyModule`, a `ModuleInterface` of the user's own.

    Attributes:
        name: the import path, a colon, the class.
        args: keyword arguments for the class.
    """

    name: str = field(default="", metadata={"check": _import_path_fault})
    args: dict[str, Any] = field(default_factory=dict)


ModuleArguments = TextArguments | SpiralArguments | ImportedModuleArguments
MODULE_ARGUMENTS: dict[str, type[TextArguments | SpiralArguments]] = {
    "text": TextArguments,
    "spiral": SpiralArguments,
}
