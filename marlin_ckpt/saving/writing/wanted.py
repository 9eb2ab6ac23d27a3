"""What a caller of `save` or of a `Saver` wants to be saved, by which ranks, and in which form."""

import errno
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist

from marlin_ckpt import naming
from marlin_ckpt.checkpoint import checked_index
from marlin_ckpt.errors import RankError, StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.naming import Kind
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving.job import Form, How, Job
from marlin_ckpt.saving.lineage import Lineage, index_in
from marlin_ckpt.saving.states import states_of
from marlin_ckpt.saving.writing.choosing import has_parts
from marlin_ckpt.saving.writing.crew import Crew
from marlin_ckpt.storage.local.publishing import is_taken
from marlin_ckpt.storage.paths import exists, make_directory
from marlin_ckpt.urls import check, is_url, refuse

_ALONE = Crew()
_TOGETHER = "all ranks save DTensors, and what ends in .dcp, together; if one has failed, its log says why"


class Wanted:
    """An object that is to be saved under a name.

    Attributes:
        path: that it will have.
        form: a folder where the name says so; of DTensors a file that rank 0 writes; else a file of this
            process alone, so that one rank may save it without the others.
    """

    def __init__(  # noqa: PLR0913 - those of `save`
        self,
        obj: Any,
        path: PathText,
        *,
        metrics: Mapping[str, Any] | None,
        index: int | None,
        overwrite: bool,
        as_is: bool = False,
    ) -> None:
        """Takes the arguments of `save`, and the states of the live objects.

        Args:
            obj: as for `save`.
            path: as for `save`.
            metrics: as for `save`.
            index: as for `save`.
            overwrite: as for `save`.
            as_is: as for `Saver`.

        Raises:
            ArgumentsError: the path looks like the URL of a store that is not known here.
            UnsavableStateError: the object is nested too deeply.
            StorageError: as `job`, already now where no other rank would wait for this one.
        """
        self.path, self._overwrite = os.fspath(path), overwrite
        check(self.path)
        self.form = Form.SHARDED if self.path.endswith(f".{naming.SHARDS}") else Form.FILE
        if not (dist.is_available() and dist.is_initialized()):
            self._check()
        self._kind = Kind.MODEL if isinstance(obj, torch.nn.Module) else Kind.CHECKPOINT
        self._state = obj if as_is else states_of(obj)
        self._metrics, self._index = metrics, index
        if self.form is Form.FILE and has_parts(self._state):
            self.form = Form.GATHERED

    def meet(self, crew: Crew, lineage: Lineage) -> Crew:
        """The ranks that save it, who all call this and then are of one run; or this process alone.

        Args:
            crew: the ranks of the process group.
            lineage: of the run.

        Raises:
            RankError: another rank does not come.
        """
        if self.form is Form.FILE:
            return _ALONE
        try:
            if crew.form():
                lineage.run_id = crew.here.told(lineage.run_id)
        except RankError as error:
            error.hint = _TOGETHER
            raise
        return crew

    def job(
        self,
        crew: Crew,
        lineage: Lineage,
        how: How,
        on_durable: Callable[[SaveReport], None] = lambda _: None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Job:
        """The save, for which the main rank looks at what has the name.

        Args:
            crew: the ranks that save it.
            lineage: of the run.
            how: it is saved.
            on_durable: as a Job has it.
            on_error: as a Job has it.

        Raises:
            ArgumentsError: the index or a metric is wrong.
            StorageError: the name is taken, or is none of a file; or its directory cannot be made.
        """
        if crew.here.is_main:
            self._check()
        index = index_in(self.path) if self._index is None else checked_index(self._index)
        manifest = lineage.manifest(self._kind, index, self._metrics, self._state, self._state)
        if crew.here.is_main:
            make_directory(os.path.dirname(self.path) or os.curdir)
        return Job(
            path=self.path, state=self._state, manifest=manifest, how=how, makes_plain=False, form=self.form,
            crew=crew, overwrite=self._overwrite, on_durable=on_durable, on_error=on_error,
        )  # fmt: skip

    def _check(self) -> None:
        if os.path.basename(self.path) in ("", os.curdir, os.pardir):
            raise StorageError(f"{self.path!r} is not the name of a file", errno=errno.EISDIR)
        if is_url(self.path):
            self._check_url()
            return
        try:
            mode = os.stat(self.path).st_mode
        except OSError:  # nothing is there, or the save itself meets it
            mode = stat.S_IFREG
        if self.form is Form.SHARDED:  # what has the name is looked at when the folder is made
            return
        if stat.S_ISDIR(mode):
            raise StorageError("a directory has the name", self.path, errno=errno.EISDIR)
        if not stat.S_ISREG(mode):  # root could replace /dev/null
            raise StorageError("what has the name is no regular file", self.path, errno=errno.EINVAL)
        if not self._overwrite and os.path.lexists(self.path):
            raise is_taken(self.path)

    def _check_url(self) -> None:
        if self.form is Form.SHARDED:
            refuse(self.path, "sharded checkpoints", "save a file, or to a shared directory")
        if not self._overwrite and exists(self.path):
            raise is_taken(self.path)
