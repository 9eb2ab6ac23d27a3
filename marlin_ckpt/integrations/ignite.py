"""A save handler for Ignite's `Checkpoint` whose files are durable and have checksums."""

import os
import re
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import ignite.distributed as idist
from ignite.handlers import DiskSaver

from marlin_ckpt.escaping import get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving.afterwards import Afterwards
from marlin_ckpt.saving.closing import Closing
from marlin_ckpt.saving.saver import Saver
from marlin_ckpt.storage.local.publishing import make_directory
from marlin_ckpt.urls import refuse

_STEP = re.compile(r"_(?P<step>[0-9]+)(?:_.*)?\.[^.]*", re.DOTALL)  # of what follows the basename
_WHY = "Checkpoint keeps no more"  # by its `n_saved`


class MarlinSaver(Closing, DiskSaver):
    """Takes the place of `DiskSaver`: `Checkpoint(to_save, MarlinSaver("checkpoints"), n_saved=2)`.

    A file gets its name when it is durable, with the CRC32 of each record. Ignite asks for the removal of an
    old file before it saves the new one; here the old one is removed once the new one is durable and no
    symbolic link beside it leads to the old one. The manifest has the score, under `score_name`, and the
    global step as the index, if the name has it.

    `torch.load`, `Checkpoint.load_objects` and `reload_objects` read the files without comparing checksums;
    `marlin_ckpt.load(directory, into=to_save)` compares them, and takes the newest intact file.

    Attributes:
        dirname: the directory, as of `DiskSaver`.
        save_on_rank: the rank that saves and removes.
        logger: where failures in the background are logged.
    """

    def __init__(  # noqa: PLR0913 - the options of DiskSaver, and three of ours
        self,
        dirname: PathText,
        *,
        asynchronous: bool = False,
        create_dir: bool = True,
        require_empty: bool = True,
        save_on_rank: int = 0,
        share_unchanged: bool = False,
        on_durable: Callable[[SaveReport], None] | None = None,
    ) -> None:
        """Checks the directory, on the rank that saves.

        Args:
            dirname: the directory for the files.
            asynchronous: write while training goes on; `close`, or the end of a `with` statement, waits for
                the last file. `Checkpoint.last_checkpoint` may name a file that is not there yet.
            create_dir: make the directory if it is missing.
            require_empty: refuse a directory that holds `.pt` files. A script that is to resume needs False,
                given here and not to `Checkpoint`.
            save_on_rank: the rank that saves; give the same number to `Checkpoint`.
            share_unchanged: let files share large tensors that have not changed; as for `marlin_ckpt.Saver`.
            on_durable: called with the report of each durable file, to upload it for example.

        Raises:
            ValueError: there is no such directory, or it is not empty.
            StorageError: the directory cannot be made, or is in an object store.
        """
        refuse(dirname, "the files of Ignite", "save by a CheckpointDirectory in a handler of your own")
        saves = idist.get_rank() == save_on_rank
        if saves and create_dir:
            make_directory(os.path.expanduser(os.fspath(dirname)))
        super().__init__(
            os.fspath(dirname),
            create_dir=create_dir,
            require_empty=require_empty,
            save_on_rank=save_on_rank,
        )
        self._on_durable = on_durable
        self._saver = Saver(
            asynchronous=asynchronous,
            share_unchanged=share_unchanged,
            on_durable=self._finish,
            history=self.dirname,
        )
        self._saver.recording.by = "Ignite"
        self.logger = get_logger(__name__)
        self._afterwards = Afterwards(lambda *gone: self._saver.recording.dropped([gone], _WHY))
        self._saver.is_going = self._afterwards.is_going

    def __call__(
        self, checkpoint: Mapping[str, Any], filename: str, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Saves what `Checkpoint` hands over, under the name that it gives.

        Raises:
            MarlinError: as of `marlin_ckpt.Saver.save`.
        """
        if idist.get_rank() != self.save_on_rank:
            return
        path = os.fspath(self.dirname / filename)
        self._afterwards.begin(path)
        metrics, index = _facts(filename, metadata or {})
        self._saver.save(checkpoint, path, metrics=metrics, index=index)

    def remove(self, filename: str) -> None:
        """Removes a file when the next one is durable."""
        if idist.get_rank() == self.save_on_rank:
            self._afterwards.remove(os.fspath(self.dirname / filename), after_next=True)

    def wait(self) -> None:
        """Waits until everything that was saved is durable, and removals are done.

        Raises:
            Exception: the error of a save in the background that was not raised before.
        """
        self._saver.wait()

    def close(self) -> None:
        """Waits as `wait` does and frees the memory for copies; a later save takes it again."""
        self._saver.close()

    def _finish(self, report: SaveReport) -> None:
        """Runs when a file is durable, before the next save begins to write."""
        self._afterwards.durable(report)
        if self._on_durable is not None:
            self._on_durable(report)


def _facts(filename: str, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """The metrics and the index for the manifest; without an index the name as a whole is asked for it."""
    name, score = metadata.get("score_name"), metadata.get("priority")
    rest = filename.removeprefix(metadata.get("basename", ""))
    found = _STEP.fullmatch(rest)
    if name is None:  # then an integer is most often the step itself
        name = None if score is None or isinstance(score, Integral) else "score"
    return {} if name is None else {name: score}, int(found["step"]) if found else None
