"""States of Accelerate that are saved as whole folders with checksums, and loaded from intact ones.

`accelerator = protect(Accelerator(project_config=...))`.
"""

import contextlib
import functools
import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from marlin_ckpt.directory.transaction import Transaction
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.formats.layouts.folder import FolderLayout
from marlin_ckpt.formats.verdicts import Verdict
from marlin_ckpt.integrations.agreement import agreed, fill_together
from marlin_ckpt.naming import Kind
from marlin_ckpt.operations.folders import accelerate as folders
from marlin_ckpt.operations.folders import numbered
from marlin_ckpt.saving.recording import Recording, recorded_folder
from marlin_ckpt.urls import refuse

PRIVATE = (
    "_custom_objects",
    "_models",
    "_optimizers",
    "_schedulers",
)  # what is read beyond public attributes
_LEFT = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA")  # values of `DistributedType`
_FOLDERS = "the folders of Accelerate"
_warn_once = functools.cache(get_logger(__name__).warning)


def protect(accelerator: Any) -> Any:
    """Makes an Accelerator save whole folders and load intact ones, and returns it.

    Args:
        accelerator: an Accelerator, or of a class that derives from it; it becomes a `MarlinAccelerator` too.
    """
    kind = type(accelerator)
    if not issubclass(kind, MarlinAccelerator):
        accelerator.__class__ = type(
            kind.__name__, (MarlinAccelerator, kind), {"__module__": kind.__module__}
        )
    return accelerator


class MarlinAccelerator(Accelerator):
    """An Accelerator each of whose saved states appears as a whole.

    A folder gets its name when all files of all processes are durable, with a manifest of their checksums.
    Only then are older ones removed for `total_limit`. With DeepSpeed, FSDP, Megatron-LM, on TPUs and with
    `save_on_each_node` everything is left to Accelerate.
    """

    _recording: Recording | None = None

    def save_state(self, output_dir: Any = None, safe_serialization: bool = True, **kwargs: Any) -> Any:
        """Saves as `Accelerator.save_state` does, and returns the path; to be called in every process.

        Args:
            output_dir: the folder, which is replaced. With automatic naming only a damaged one is replaced.
            safe_serialization: write the weights as safetensors.
            kwargs: as for `Accelerator.save_state`.

        Raises:
            StorageError: the folder cannot be written, or not by another process, or is to be in an object
                store; or it holds files that no
                save has written; or a state of this number or a later one is there already.
        """
        if not self._is_covered():
            return super().save_state(output_dir, safe_serialization, **kwargs)
        refuse(output_dir, _FOLDERS)
        refuse(self.project_dir, _FOLDERS)
        config = self.project_configuration
        number, is_named = config.iteration, config.automatic_checkpoint_naming
        path = f"{self._directory()}/checkpoint_{number}" if is_named else os.path.abspath(output_dir)
        self._recording = history = self._recording or Recording("Accelerate")
        save = functools.partial(super().save_state, safe_serialization=safe_serialization)
        try:
            with contextlib.ExitStack() as stack:
                staging = agreed(lambda: stack.enter_context(self._transaction(path, history)))
                config.automatic_checkpoint_naming = False  # else it would go elsewhere, and remove first
                fill_together(staging, lambda: save(staging, **kwargs))
                agreed(stack.close)
        except BaseException:
            config.iteration = number
            raise
        finally:
            config.automatic_checkpoint_naming = is_named
        if is_named and (limit := config.total_limit) is not None:
            why = f"total_limit is {limit}"
            place = folders.history_of(path)
            agreed(lambda: history.dropped(folders.rotate(path, limit), why, place))
        return Path(path)

    def load_state(self, input_dir: Any = None, load_kwargs: Any = None, **kwargs: Any) -> None:
        """Loads as `Accelerator.load_state` does, after all checksums of the folder were compared.

        With automatic naming the next state gets the number after the loaded one; if a folder was named, the
        number after the last one there.

        Args:
            input_dir: the folder. None, with automatic naming, takes the newest intact one; newer ones that
                are passed over are logged.
            load_kwargs: as for `Accelerator.load_state`.
            kwargs: as for `Accelerator.load_state`.

        Raises:
            CheckpointNotFoundError: no folder was named, and there is none.
            CorruptCheckpointError: the named folder, or every folder, is damaged or incomplete.
        """
        config, named = self.project_configuration, os.path.expanduser(input_dir or "")
        is_named = config.automatic_checkpoint_naming
        if not (self._is_covered() and (os.path.isdir(named) if named else is_named)):
            super().load_state(input_dir, load_kwargs, **kwargs)
            return
        find = numbered.check if named else numbered.start
        path, passed_over = agreed(lambda: find(named or self._directory(), folders.NAME, self._judge))
        super().load_state(path, load_kwargs, **kwargs)
        if is_named:
            config.iteration = folders.next_number(self._directory(), "" if named else path)
        self._recording = Recording("Accelerate")
        self._recording.continues(path, numbered.manifest(path), passed_over)

    def _directory(self) -> str:
        return os.path.join(os.path.abspath(self.project_dir), "checkpoints")

    def _transaction(self, path: str, history: Recording) -> contextlib.AbstractContextManager[str]:
        """What saves a folder, unless something would be lost by that."""
        if self.project_configuration.automatic_checkpoint_naming:
            folders.check_last(path, self._judge)
        folders.check_replaceable(path)
        read = FolderLayout().read_name(os.path.basename(path))
        index = self.save_iteration if read is None else read.index
        manifest = history.lineage.manifest(Kind.CHECKPOINT, index, None, {}, {})
        whole = Transaction(*os.path.split(path), manifest=manifest)
        return recorded_folder(history, whole, folders.history_of(path))

    def _judge(self, path: str) -> Verdict:
        counts = [len(getattr(self, name)) for name in PRIVATE]
        return numbered.verify(path, lambda names: folders.missing(names, *counts))

    def _is_covered(self) -> bool:
        """Whether the first process can publish a state as one folder; if not, the log says why once."""
        reason = self.distributed_type.value
        if self.project_configuration.save_on_each_node and self.num_processes > 1:
            reason = "save_on_each_node"
        elif reason not in _LEFT:
            return True
        _warn_once("With %s states are left to Accelerate: not atomic, not verified.", reason)
        return False
