"""The dataclasses behind the sections of the YAML, with their defaults and bounds."""

import os
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from marlin_ckpt import urls
from marlin_ckpt.distribution import DistributedTrainingArguments, FsdpArguments
from marlin_ckpt.errors import Fault, StorageError
from marlin_ckpt.fields import Checked, PathText, extension_fault, name_part_fault, suggestion
from marlin_ckpt.keep import DURATION, RetentionArguments
from marlin_ckpt.remote import RemoteArguments

_LOG_LEVELS = {"choices": ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}
BACKENDS = ("sp", "sp-amp", "ddp", "ddp-amp", "fsdp2")
ON_MANY = ("ddp", "ddp-amp", "fsdp2")  # those of them that train in many processes
_NOT_EMPTY = {"required": "must not be empty"}
_PLACE = {"check": urls.fault}  # a directory, or the URL of one


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
    """What `DefaultCheckpointer` does: PyMarlin's fields with PyMarlin's defaults, and more.

    A plain mutable dataclass: if you set a field, the next call checks and obeys it.

    Attributes:
        checkpoint: save at all. With `False` nothing is written, whatever the other fields say.
        delete_existing_checkpoints: before the run begins, remove all files directly in `save_dir` whose
            extension is `file_ext`, and the sharded checkpoints. `train --resume` overrides it where there is
            a checkpoint to continue from, and `--overwrite` sets it.
        period: save when the index (see `index_by`) is a multiple of this, at the end of the run, and when
            forced. `auto` saves as often as `max_overhead` allows.
        save_dir: the directory for checkpoints; it is made if it is missing.
        model_state_save_dir: the directory for the model file, which holds the module's state alone and is
            written at the end of the run. `None` writes none.
        load_dir: the directory to load from at the start, searched with its sub-directories. `None` starts
            fresh. `train --resume` overrides it where `save_dir` has a checkpoint.
        load_filename: the file in `load_dir` to load. `None` loads the newest intact checkpoint. `--resume`
            overrides it as it does `load_dir`.
        file_prefix: the start of file names, which are `{file_prefix}_{index}.{file_ext}`.
        file_ext: the extension of file names, without its dot.
        log_level: the lowest level that the checkpointer logs. Python's own logger `marlin_ckpt.checkpointer`
            may be set to a higher one.
        max_overhead: with `period: auto`, the share of the training time that saves may take. The default,
            0.035, is the bound of CheckFreq (FAST '21).
        mean_time_between_failures_hours: with `period: auto`, the mean time between two failures of the
            machine, in hours. Saves are no closer together than is best then: the square root of twice its
            product with the time that a save costs (Young, 1974).
        async_save: copy the state to memory, which takes as much again, and write it while training goes on.
        overlap: with `async_save`, copy also in the background what only the optimizer's step changes; the
            next step waits until that is copied. A tensor that is written to otherwise makes the save fail,
            except through `.data`, which PyTorch does not count: see `check_overlap`.
        check_overlap: with `overlap`, compare checksums of the tensors and their copies, so that writes
            through `.data` are noticed too. This takes about half the time of copying at once.
        when_busy: with `async_save`, what happens when a save is due while the one before it is still being
            written. `wait` waits for it; `skip` does not save this time, unless the save is forced.
        on_save_error: what happens when a save fails. `raise` raises the error, with `async_save` at the next
            call; `warn` logs it and training goes on.
        keep: which checkpoints of this run stay in `save_dir`; after each save the others are removed. `None`
            keeps all.
        check_space: refuse to begin a run when the disk has no room for the checkpoints that it will keep.
        weights_only: refuse to load a file that would import more than tensors and plain values. `False` runs
            any code that a file names, so use it only for files of your own.
        resume_from: a checkpoint to load, in place of what `load_dir` and `load_filename` say.
        statistics: save of each tensor of numbers its L2 norm, minimum, maximum and how many values are NaN
            or infinite, too. `marlin-ckpt report` shows how they change from checkpoint to checkpoint.
        share_unchanged: let large tensors that have not changed share the space of earlier checkpoints, where
            the file system can (XFS, btrfs). Each stays a whole file, or of sharded ones each shard; of what
            is kept two copies stay. To a bucket only what has changed is sent.
        layout: what a checkpoint is. `file` is one file; where each of several processes has a part of the
            state, the first gathers it, tensor by tensor. `sharded` is a folder `{file_prefix}_{index}.dcp`
            to which each process writes what it has. `auto` is `sharded` where a tensor is a DTensor (with
            `backend: fsdp2`), else `file`. In an object store `auto` is `file`.
        save_timeout: how long processes that save together wait for each other, such as `10m` or `90s`.
        remote: how `s3://bucket/prefix` is reached, where a directory is one. `None` takes the defaults.

    Raises:
        ArgumentsError: at construction, naming every field that is wrong.
    """

    checkpoint: bool = True
    delete_existing_checkpoints: bool = False
    period: int | Literal["auto"] = field(default=1, metadata={"minimum": 1})
    save_dir: PathText = field(default_factory=_checkpoints_here, metadata={**_NOT_EMPTY, **_PLACE})
    model_state_save_dir: PathText | None = field(default_factory=_checkpoints_here, metadata=_PLACE)
    load_dir: PathText | None = field(default=None, metadata=_PLACE)
    load_filename: PathText | None = field(default=None, metadata={"check": _outside_fault})
    file_prefix: str = field(default="model", metadata={"check": name_part_fault, "pattern": "^[^/]+$"})
    file_ext: str = field(default="pt", metadata={"check": extension_fault, "pattern": "^[^./][^/]*$"})
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
    statistics: bool = False
    share_unchanged: bool = False
    layout: str = field(default="auto", metadata={"choices": ("auto", "file", "sharded")})
    save_timeout: str = field(default="10m", metadata=DURATION)
    remote: RemoteArguments | None = None


@dataclass
class TrainerArguments(Checked):
    """How `Trainer` trains; PyMarlin's names and defaults where it has them.

    Attributes:
        epochs: the epochs of the whole run, those before a resume included.
        train_batch_size: the samples of one optimizer step, those of all ranks together.
        val_batch_size: the samples of one validation batch, of each rank.
        gpu_batch_size_limit: the samples that a device can hold at once. Where its part of
            `train_batch_size` is larger, that is split, and the gradients are accumulated.
        max_train_steps_per_epoch: the optimizer steps after which an epoch ends early. `None` uses all
            data.
        max_val_steps_per_epoch: the batches after which a validation ends early. `None` uses all data.
        clip_grads: clip the norm of the gradients to `max_grad_norm` before each optimizer step.
        max_grad_norm: the greatest norm of the gradients, with `clip_grads`.
        reset_optimizers_schedulers: after a load, make new optimizers and schedulers and do not use the
            saved ones.
        device: the device to train on, as torch spells it: `cpu`, `cuda`, `cuda:1`. `auto` takes CUDA if
            there is one and `use_gpu` allows it, else the CPU.
        use_gpu: whether `device: auto` may take CUDA.
        backend: how steps are run. `sp` runs them in this process. `ddp` runs them in many, each with a
            copy of the module, and averages the gradients; `fsdp2` does too, each with a part of the
            module (see `fsdp`). Both are started by `torchrun`. `sp-amp` and `ddp-amp` use automatic mixed
            precision.
        amp_dtype: the type that `sp-amp` and `ddp-amp` compute in. `auto` takes `bfloat16` where the
            device supports it, else `float16`.
        fsdp: how `backend: fsdp2` shards the module. `None` takes the defaults.
        step_schedulers_by: whether learning-rate schedulers step after each optimizer `step` or after
            each `epoch`.
        plateau_metric: with `step_schedulers_by: epoch`, the metric for ReduceLROnPlateau: `train_loss`,
            or a name that `get_metrics` returns. `None` takes `val_loss`, or `train_loss` if there is no
            `val_loss`.
        seed: the seed for the first weights, the order of the data and all other random numbers of the
            run. `None` uses the state of the random generators as it is. A resumed run keeps the seed of
            its beginning.
        deterministic: let torch use only deterministic algorithms; an operation that has none is an
            error.
        index_by: what checkpoints are numbered by, in file names and for `period`: the `epoch`, counted
            from 0, or the global `step`.
        checkpoint_every_minutes: save also when this many minutes have passed since the last save.
        handle_signals: on SIGTERM and SIGINT (Ctrl-C) save and stop; on SIGUSR1 save and go on.
        preempt_grace_seconds: the seconds between a signal and the end of the process, as the machine or
            its scheduler has them. The log warns when a save takes longer.
        exact: refuse to resume when the result could differ from that of a run that was never stopped,
            because versions, device, data or settings differ.
        log_level: the lowest level that the trainer logs. Python's own logger
            `marlin_ckpt.training.trainer` may be set to a higher one.
        checkpointer_args: the arguments of the `DefaultCheckpointer` that the trainer makes when it is
            given none. In YAML this is the section `checkpointer`.
        distributed_training_args: which process of many this one is. `None` takes what torchrun says.

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
    backend: str = field(default="sp", metadata={"choices": BACKENDS})
    amp_dtype: str = field(default="auto", metadata={"choices": ("auto", "bfloat16", "float16")})
    fsdp: FsdpArguments | None = None
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
    distributed_training_args: DistributedTrainingArguments | None = field(
        default=None, metadata={"yaml": False}
    )


@dataclass
class TextArguments(Checked):
    """`module.name: text`, a character-level transformer language model over text files.

    Attributes:
        name: `text` selects this model.
        files: the UTF-8 text files to learn, in this order.
        width: the size of the residual stream, a multiple of `heads`. GPT-2 small has 768.
        depth: the number of transformer blocks. GPT-2 small has 12.
        heads: the attention heads of a block. GPT-2 small has 12.
        context: the characters that a prediction may look back on. GPT-2 small has 1024 tokens.
        vocabulary_size: the rows of the embedding, at least as many as the files have distinct
            characters. `None` makes just as many. GPT-2 small has 50257.
        dropout: the share of activations dropped in training; 0 or more and below 1.
        learning_rate: the learning rate of AdamW.
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
        name: `spiral` selects this model.
        points: how many points are generated; a fifth of them are for validation.
        arms: the number of spiral arms, which are the classes.
        width: the size of the hidden layers.
        learning_rate: the learning rate of AdamW.
        data_seed: the seed that the points are generated from.
    """

    name: str = "spiral"
    points: int = field(default=600, metadata={"minimum": 10})
    arms: int = field(default=3, metadata={"minimum": 2})
    width: int = field(default=32, metadata={"minimum": 1})
    learning_rate: float = field(default=1e-2, metadata={"above": 0})
    data_seed: int = field(default=0, metadata={"minimum": 0, "maximum": 2**63 - 1})


_IMPORT_PATH = r"^[^\s.:]+(\.[^\s.:]+)*:[^\s.:]+$"


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
        name: the import path of the module, a colon and the class: `my_package.my_file:MyModule`. The
            working directory is searched too.
        args: the keyword arguments that the class is called with.
    """

    name: str = field(default="", metadata={"check": _import_path_fault, "pattern": _IMPORT_PATH})
    args: dict[str, Any] = field(default_factory=dict)


ModuleArguments = TextArguments | SpiralArguments | ImportedModuleArguments
MODULE_ARGUMENTS: dict[str, type[TextArguments | SpiralArguments]] = {
    "text": TextArguments,
    "spiral": SpiralArguments,
}
