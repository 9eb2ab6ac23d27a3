"""What stands at the top of the package, and what importing it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import marlin_ckpt
from marlin_ckpt import errors

PUBLIC_NAMES = [
    "AbstractCheckpointer",
    "AbstractTrainerBackendDecorator",
    "ArgumentsError",
    "BadFileError",
    "BestArguments",
    "CallbackInterface",
    "Checkpoint",
    "CheckpointDirectory",
    "CheckpointInfo",
    "CheckpointNotFoundError",
    "ConfigError",
    "Container",
    "Contents",
    "CorruptCheckpointError",
    "DDPTrainerBackend",
    "DefaultCheckpointer",
    "DefaultCheckpointerArguments",
    "DirectoryInUseError",
    "DistributedTrainingArguments",
    "FSDPTrainerBackend",
    "FailedSave",
    "Fault",
    "Format",
    "FsdpArguments",
    "Kind",
    "LoadReport",
    "Manifest",
    "MarlinError",
    "Mesh",
    "ModuleInterface",
    "Node",
    "NodeKind",
    "NotACheckpointError",
    "Parent",
    "Piece",
    "Preempted",
    "Pruning",
    "RankError",
    "Record",
    "RemoteArguments",
    "Removal",
    "RetentionArguments",
    "SaveReport",
    "Saver",
    "Sharded",
    "SingleProcess",
    "Stage",
    "StateMismatchError",
    "Statistics",
    "Status",
    "StorageError",
    "TensorInfo",
    "Trainer",
    "TrainerArguments",
    "TrainerBackend",
    "TrainerBackendArguments",
    "TrainerHooks",
    "TrainerObserver",
    "TrainingError",
    "UnknownFormatError",
    "UnloadableStateError",
    "UnsafeCheckpointError",
    "UnsavableStateError",
    "Verdict",
    "get_latest_file",
    "inspect",
    "load",
    "read_statistics",
    "save",
    "verify",
]


def _run(code: str, repository: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)


def test_the_public_names_are_these_and_sorted():
    assert marlin_ckpt.__all__ == PUBLIC_NAMES
    assert sorted(PUBLIC_NAMES) == PUBLIC_NAMES


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_each_public_name_is_the_thing_of_that_name(name: str):
    assert getattr(marlin_ckpt, name).__name__ == name
    assert name in dir(marlin_ckpt)


def test_every_error_stands_at_the_top():
    assert {name for name in vars(errors) if name.endswith("Error") and name[0] != "_"} <= set(
        marlin_ckpt.__all__
    )


def test_a_star_import_binds_exactly_the_public_names():
    namespace: dict[str, object] = {}
    exec("from marlin_ckpt import *", namespace)
    assert sorted(namespace.keys() - {"__builtins__"}) == PUBLIC_NAMES


def test_a_name_that_is_not_there_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match=r"'marlin_ckpt' has no attribute 'Checkpointer'"):
        _ = marlin_ckpt.Checkpointer


def test_importing_the_package_imports_no_library(repository: Path):
    code = (
        "import sys, marlin_ckpt; dir(marlin_ckpt); "
        "print(*sorted({'torch', 'numpy', 'typer', 'rich', 'typing', 'yaml', 'isal'} & set(sys.modules)))"
    )
    done = _run(code, repository)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_values_errors_and_discovery_work_where_torch_cannot_be_imported(repository: Path, tmp_path: Path):
    (tmp_path / "model_12.pt").touch()
    code = f"""
import sys
sys.modules["torch"] = None
from marlin_ckpt import ArgumentsError, Checkpoint, get_latest_file
from marlin_ckpt import DefaultCheckpointerArguments, TrainerArguments
print(get_latest_file({str(tmp_path)!r}, "model"))
try:
    DefaultCheckpointerArguments(period=0)
except ArgumentsError as error:
    print(error)
print(Checkpoint(trainer_state=1).payload(), TrainerArguments().epochs)
"""
    done = _run(code, repository)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        str(tmp_path / "model_12.pt"),
        "period: expected 1 or more, not 0",
        "{'module_interface_state': None, 'trainer_state': 1, 'trainer_backend_state': None} 1",
    ]


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert (Path(marlin_ckpt.__file__).parent / "py.typed").is_file()
