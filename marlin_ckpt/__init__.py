"""Checkpoints for PyTorch that survive kills and full disks.

The public names are bound on first use (PEP 562), so that `import marlin_ckpt` costs next to nothing and
needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from marlin_ckpt.version import __version__ as __version__

if TYPE_CHECKING:
    from marlin_ckpt.arguments import DefaultCheckpointerArguments, TrainerArguments
    from marlin_ckpt.checkpoint import Checkpoint
    from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
    from marlin_ckpt.checkpointer.default import DefaultCheckpointer
    from marlin_ckpt.directory.catalog import get_latest_file
    from marlin_ckpt.errors import (
        ArgumentsError,
        BadFileError,
        CheckpointNotFoundError,
        ConfigError,
        CorruptCheckpointError,
        DirectoryInUseError,
        MarlinError,
        NotACheckpointError,
        StateMismatchError,
        StorageError,
        TrainingError,
        UnknownFormatError,
        UnsafeCheckpointError,
        UnsavableStateError,
    )
    from marlin_ckpt.keep import BestArguments, RetentionArguments
    from marlin_ckpt.training.backend import SingleProcess, TrainerBackend
    from marlin_ckpt.training.module import ModuleInterface
    from marlin_ckpt.training.preemption import Preempted
    from marlin_ckpt.training.trainer import Trainer

_ERRORS = "marlin_ckpt.errors"
_HOMES = {
    "AbstractCheckpointer": "marlin_ckpt.checkpointer.abstract",
    "ArgumentsError": _ERRORS,
    "BadFileError": _ERRORS,
    "BestArguments": "marlin_ckpt.keep",
    "Checkpoint": "marlin_ckpt.checkpoint",
    "CheckpointNotFoundError": _ERRORS,
    "ConfigError": _ERRORS,
    "CorruptCheckpointError": _ERRORS,
    "DefaultCheckpointer": "marlin_ckpt.checkpointer.default",
    "DefaultCheckpointerArguments": "marlin_ckpt.arguments",
    "DirectoryInUseError": _ERRORS,
    "MarlinError": _ERRORS,
    "ModuleInterface": "marlin_ckpt.training.module",
    "NotACheckpointError": _ERRORS,
    "Preempted": "marlin_ckpt.training.preemption",
    "RetentionArguments": "marlin_ckpt.keep",
    "SingleProcess": "marlin_ckpt.training.backend",
    "StateMismatchError": _ERRORS,
    "StorageError": _ERRORS,
    "Trainer": "marlin_ckpt.training.trainer",
    "TrainerArguments": "marlin_ckpt.arguments",
    "TrainerBackend": "marlin_ckpt.training.backend",
    "TrainingError": _ERRORS,
    "UnknownFormatError": _ERRORS,
    "UnsafeCheckpointError": _ERRORS,
    "UnsavableStateError": _ERRORS,
    "get_latest_file": "marlin_ckpt.directory.catalog",
}

__all__ = [
    "AbstractCheckpointer",
    "ArgumentsError",
    "BadFileError",
    "BestArguments",
    "Checkpoint",
    "CheckpointNotFoundError",
    "ConfigError",
    "CorruptCheckpointError",
    "DefaultCheckpointer",
    "DefaultCheckpointerArguments",
    "DirectoryInUseError",
    "MarlinError",
    "ModuleInterface",
    "NotACheckpointError",
    "Preempted",
    "RetentionArguments",
    "SingleProcess",
    "StateMismatchError",
    "StorageError",
    "Trainer",
    "TrainerArguments",
    "TrainerBackend",
    "TrainingError",
    "UnknownFormatError",
    "UnsafeCheckpointError",
    "UnsavableStateError",
    "get_latest_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
