"""Checkpoints for PyTorch that survive kills and full disks.

The public names are bound on first use (PEP 562), so that `import marlin_ckpt` costs next to nothing and
needs no torch. The packages, each of which imports only those below it:

cli           the command `marlin-ckpt`; `python -m marlin_ckpt` runs it too
integrations  adapters to other packages: Lightning, Transformers, Accelerate, Ignite
training      the trainer, the modules that it trains, and how a run goes on from a checkpoint
checkpointer  saves and loads the state of a run: what a trainer, or a loop of the user's, calls
saving        writes states to files, before the call returns or in the background
loading       reads states from files, and restores live modules and optimizers
distributed   what the ranks of a run agree on, and how they save and load together
operations    what the other commands do with checkpoints: verify, compare, export, average, salvage
directory     a directory of checkpoints: discovery, retention, the trash, the lease
formats       one checkpoint: how files are encoded, read, written and verified
config        reads the YAML into the dataclasses of `arguments`
storage       names and bytes: stores of objects, and the writer of files

The values that all of them share:

arguments   the dataclasses behind the sections of the YAML
keep        the section `keep`: which checkpoints retention keeps
distribution  how a run is spread over ranks
remote      the section `remote`: how checkpoints get to an object store and back
fields      what a field of these dataclasses may hold
checkpoint  Checkpoint: the three states of a run, with its metrics
cadence     how often a run can afford to save
reports     what a save cost
entries     what a look at a store finds, before any file is opened
escaping    makes names from files harmless in messages and logs
urls        the URLs of object stores, in the place of paths
naming      the grammar of file names
grammars    those of other tools
errors      everything that is raised on purpose, with the exit codes
refusals    what to do where the operating system refuses a call
version     the version
"""

from importlib import import_module

from marlin_ckpt.version import __version__ as __version__

TYPE_CHECKING = False  # as type checkers read it; importing `typing` takes longer than all of this module

if TYPE_CHECKING:
    from marlin_ckpt.arguments import DefaultCheckpointerArguments as DefaultCheckpointerArguments
    from marlin_ckpt.arguments import TrainerArguments as TrainerArguments
    from marlin_ckpt.checkpoint import Checkpoint as Checkpoint
    from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer as AbstractCheckpointer
    from marlin_ckpt.checkpointer.default import DefaultCheckpointer as DefaultCheckpointer
    from marlin_ckpt.checkpointer.directory import CheckpointDirectory as CheckpointDirectory
    from marlin_ckpt.checkpointer.hooks import TrainerHooks as TrainerHooks
    from marlin_ckpt.directory.latest import get_latest_file as get_latest_file
    from marlin_ckpt.directory.removing import Removal as Removal
    from marlin_ckpt.distribution import DistributedTrainingArguments as DistributedTrainingArguments
    from marlin_ckpt.distribution import FsdpArguments as FsdpArguments
    from marlin_ckpt.errors import ArgumentsError as ArgumentsError
    from marlin_ckpt.errors import BadFileError as BadFileError
    from marlin_ckpt.errors import CheckpointNotFoundError as CheckpointNotFoundError
    from marlin_ckpt.errors import ConfigError as ConfigError
    from marlin_ckpt.errors import CorruptCheckpointError as CorruptCheckpointError
    from marlin_ckpt.errors import DirectoryInUseError as DirectoryInUseError
    from marlin_ckpt.errors import Fault as Fault
    from marlin_ckpt.errors import MarlinError as MarlinError
    from marlin_ckpt.errors import NotACheckpointError as NotACheckpointError
    from marlin_ckpt.errors import RankError as RankError
    from marlin_ckpt.errors import StateMismatchError as StateMismatchError
    from marlin_ckpt.errors import StorageError as StorageError
    from marlin_ckpt.errors import TrainingError as TrainingError
    from marlin_ckpt.errors import UnknownFormatError as UnknownFormatError
    from marlin_ckpt.errors import UnloadableStateError as UnloadableStateError
    from marlin_ckpt.errors import UnsafeCheckpointError as UnsafeCheckpointError
    from marlin_ckpt.errors import UnsavableStateError as UnsavableStateError
    from marlin_ckpt.formats.content.contents import Contents as Contents
    from marlin_ckpt.formats.content.node import Node as Node
    from marlin_ckpt.formats.content.node import NodeKind as NodeKind
    from marlin_ckpt.formats.format import Format as Format
    from marlin_ckpt.formats.manifest import Manifest as Manifest
    from marlin_ckpt.formats.manifest import Mesh as Mesh
    from marlin_ckpt.formats.manifest import Parent as Parent
    from marlin_ckpt.formats.manifest import Sharded as Sharded
    from marlin_ckpt.formats.statistics import Statistics as Statistics
    from marlin_ckpt.formats.values.tensor import Piece as Piece
    from marlin_ckpt.formats.values.tensor import TensorInfo as TensorInfo
    from marlin_ckpt.formats.verdicts import CheckpointInfo as CheckpointInfo
    from marlin_ckpt.formats.verdicts import Status as Status
    from marlin_ckpt.formats.verdicts import Verdict as Verdict
    from marlin_ckpt.formats.zip.container import Container as Container
    from marlin_ckpt.formats.zip.structures import Record as Record
    from marlin_ckpt.keep import BestArguments as BestArguments
    from marlin_ckpt.keep import RetentionArguments as RetentionArguments
    from marlin_ckpt.loading.anything import load as load
    from marlin_ckpt.naming import Kind as Kind
    from marlin_ckpt.operations.one import inspect as inspect
    from marlin_ckpt.operations.one import read_statistics as read_statistics
    from marlin_ckpt.operations.one import verify as verify
    from marlin_ckpt.remote import RemoteArguments as RemoteArguments
    from marlin_ckpt.reports import FailedSave as FailedSave
    from marlin_ckpt.reports import LoadReport as LoadReport
    from marlin_ckpt.reports import Pruning as Pruning
    from marlin_ckpt.reports import SaveReport as SaveReport
    from marlin_ckpt.saving.saver import Saver as Saver
    from marlin_ckpt.saving.saver import save as save
    from marlin_ckpt.training.backend import SingleProcess as SingleProcess
    from marlin_ckpt.training.backend import TrainerBackend as TrainerBackend
    from marlin_ckpt.training.backend import TrainerBackendArguments as TrainerBackendArguments
    from marlin_ckpt.training.module import CallbackInterface as CallbackInterface
    from marlin_ckpt.training.module import ModuleInterface as ModuleInterface
    from marlin_ckpt.training.module import Stage as Stage
    from marlin_ckpt.training.observer import TrainerObserver as TrainerObserver
    from marlin_ckpt.training.parallel.backends import (
        AbstractTrainerBackendDecorator as AbstractTrainerBackendDecorator,
    )
    from marlin_ckpt.training.parallel.backends import DDPTrainerBackend as DDPTrainerBackend
    from marlin_ckpt.training.parallel.backends import FSDPTrainerBackend as FSDPTrainerBackend
    from marlin_ckpt.training.preemption import Preempted as Preempted
    from marlin_ckpt.training.trainer import Trainer as Trainer

_NAMES = {
    "arguments": ("DefaultCheckpointerArguments", "TrainerArguments"),
    "checkpoint": ("Checkpoint",),
    "checkpointer.abstract": ("AbstractCheckpointer",),
    "checkpointer.default": ("DefaultCheckpointer",),
    "checkpointer.directory": ("CheckpointDirectory",),
    "checkpointer.hooks": ("TrainerHooks",),
    "directory.latest": ("get_latest_file",),
    "directory.removing": ("Removal",),
    "distribution": ("DistributedTrainingArguments", "FsdpArguments"),
    "errors": (
        "ArgumentsError", "BadFileError", "CheckpointNotFoundError", "ConfigError", "CorruptCheckpointError",
        "DirectoryInUseError", "Fault", "MarlinError", "NotACheckpointError", "RankError",
        "StateMismatchError", "StorageError", "TrainingError", "UnknownFormatError", "UnloadableStateError",
        "UnsafeCheckpointError", "UnsavableStateError",
    ),
    "formats.content.contents": ("Contents",),
    "formats.content.node": ("Node", "NodeKind"),
    "formats.format": ("Format",),
    "formats.manifest": ("Manifest", "Mesh", "Parent", "Sharded"),
    "formats.statistics": ("Statistics",),
    "formats.values.tensor": ("Piece", "TensorInfo"),
    "formats.verdicts": ("CheckpointInfo", "Status", "Verdict"),
    "formats.zip.container": ("Container",),
    "formats.zip.structures": ("Record",),
    "keep": ("BestArguments", "RetentionArguments"),
    "saving.saver": ("Saver", "save"),
    "loading.anything": ("load",),
    "naming": ("Kind",),
    "operations.one": ("inspect", "read_statistics", "verify"),
    "remote": ("RemoteArguments",),
    "reports": ("FailedSave", "LoadReport", "Pruning", "SaveReport"),
    "training.backend": ("SingleProcess", "TrainerBackend", "TrainerBackendArguments"),
    "training.module": ("CallbackInterface", "ModuleInterface", "Stage"),
    "training.observer": ("TrainerObserver",),
    "training.parallel.backends": (
        "AbstractTrainerBackendDecorator", "DDPTrainerBackend", "FSDPTrainerBackend",
    ),
    "training.preemption": ("Preempted",),
    "training.trainer": ("Trainer",),
}  # fmt: skip
_HOMES = dict(sorted((name, f"{__name__}.{module}") for module, names in _NAMES.items() for name in names))

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
