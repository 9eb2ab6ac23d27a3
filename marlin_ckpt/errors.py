"""Everything that marlin-ckpt raises on purpose.

MarlinError                       exit 1
+-- ArgumentsError (ValueError)   exit 2   a field of a dataclass of arguments, or an argument of a call
+-- ConfigError                   exit 2   a YAML file, a `--set`, or the module that it names
+-- StorageError (OSError)        exit 1   the disk, the permissions, the directory
+-- UnsavableStateError           exit 1   a state that cannot be pickled
+-- UnloadableStateError          exit 1   a whole file whose state cannot be made here
+-- StateMismatchError            exit 1   a loaded state that does not fit the live object
+-- TrainingError                 exit 1   a run that cannot go on
+-- RankError                     exit 1   other ranks of a run have ended, or do not answer
+-- BadFileError                  exit 3
|   +-- CorruptCheckpointError             bytes are missing or changed
|   +-- NotACheckpointError                whole, but something else
|   +-- UnknownFormatError                 written by a newer marlin-ckpt
|   +-- UnsafeCheckpointError              loading it would import what is not known to be safe
+-- CheckpointNotFoundError (FileNotFoundError)   exit 4
+-- DirectoryInUseError           exit 5   another run saves there
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

from marlin_ckpt import refusals
from marlin_ckpt.escaping import escape, escape_lines


class Fault(NamedTuple):
    """One thing that is wrong with one argument or key.

    Attributes:
        field: the argument, or the path of a key, `checkpointer.period`.
        message: what was expected and what was found.
        where: file and line of a key; else `""`.
    """

    field: str
    message: str
    where: str = ""

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        return f"{where}{self.field}: {self.message}"


class MarlinError(Exception):
    """The base of all errors that marlin-ckpt raises on purpose.

    Attributes:
        what: what was wrong, in one sentence without a full stop.
        where: the file, directory or object that it is about, or `""`.
        exit_code: the exit code of a command that ends with this error.
    """

    exit_code: ClassVar[int] = 1
    _hint = ""

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    @property
    def hint(self) -> str:
        """What to do next, or `""`. A traceback shows it below the message."""
        return self._hint

    @hint.setter
    def hint(self, hint: str) -> None:
        shown = _note(self._hint)
        self.__notes__ = [one for one in getattr(self, "__notes__", ()) if one != shown]
        self._hint = hint
        if hint:
            self.add_note(_note(hint))

    def __str__(self) -> str:
        return escape(f"{self.what}: {self.where}" if self.where else self.what)

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with `args` alone, which the subclasses that are also OSErrors
        # do not keep, and errors cross process borders in data loaders and test runners.
        return _restore, (type(self), self.what, dict(vars(self)))


def _note(hint: str) -> str:
    return f"hint: {escape(hint)}"


def _restore(kind: type[MarlinError], what: str, attributes: dict[str, Any]) -> MarlinError:
    error = kind.__new__(kind, what)
    vars(error).update(attributes)
    error.args = (what,)
    return error


class _FaultsError(MarlinError):
    exit_code = 2

    def __init__(self, faults: list[Fault], hint: str = "") -> None:
        super().__init__("\n".join(str(fault) for fault in faults), "", hint)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return escape_lines(self.what)


class ArgumentsError(_FaultsError, ValueError):
    """Arguments are out of range or of the wrong type.

    Attributes:
        faults: everything that is wrong, a `Fault` each.
    """


class ConfigError(_FaultsError):
    """A YAML file, a `--set`, or the module that it names cannot be used.

    Attributes:
        faults: everything that is wrong, a `Fault` each.
    """


class StorageError(MarlinError, OSError):
    """Reading, writing or removing failed. What has its final name is whole.

    Attributes:
        errno: the operating system's number of the first cause, or None.
        strerror: the operating system's text for it, or else what failed.
    """

    # They hide those of OSError, which live outside of an object's dict and are lost when it is pickled.
    errno: int | None = None
    strerror: str = ""

    def __init__(self, what: str, where: str = "", hint: str = "", *, errno: int | None = None) -> None:
        super().__init__(what, where, hint)
        self.errno = errno
        self.strerror = what

    @classmethod
    def of(cls, action: str, where: str, cause: OSError) -> StorageError:
        """The error for a system call that failed while we did `action` (`cannot write`)."""
        why = cause.strerror or str(cause)
        error = cls(f"{action}: {why}", where, refusals.hint(cause.errno), errno=cause.errno)
        error.strerror = why
        return error

    @classmethod
    def of_working_directory(cls, cause: OSError) -> StorageError:
        """The error where the system does not say where relative paths begin."""
        is_gone = isinstance(cause, FileNotFoundError)
        why = "has been removed" if is_gone else f"cannot be reached: {cause.strerror}"
        hint = "cd to a directory that is there"
        return cls(f"the working directory {why}", "", hint, errno=cause.errno)


class UnsavableStateError(MarlinError):
    """A state holds something that cannot be pickled; no file was written."""


class UnloadableStateError(MarlinError):
    """A file is whole, but its state cannot be made here: a class that it names is missing or raises."""


class StateMismatchError(MarlinError):
    """A checkpoint was read, but its state does not fit the module, optimizer or scheduler.

    Attributes:
        differences: everything that is known to differ, one sentence each.
    """

    def __init__(
        self, what: str, where: str = "", hint: str = "", *, differences: tuple[str, ...] = ()
    ) -> None:
        super().__init__(what, where, hint)
        self.differences = differences


class TrainingError(MarlinError):
    """A run cannot begin or continue."""


class RankError(MarlinError):
    """Another rank of the run has ended, did not answer in time, or has failed in a way that is not foreseen.

    Attributes:
        is_foreign: whether it is the last of these: that rank has raised an error that is none of ours.
    """

    is_foreign = False


class BadFileError(MarlinError):
    """The content of a file is bad: corrupt, no checkpoint, or refused as unsafe."""

    exit_code = 3


class CorruptCheckpointError(BadFileError):
    """Bytes of a file are missing or changed.

    Attributes:
        tensors: the names of the tensors that are known to be damaged.
    """

    def __init__(self, what: str, where: str = "", hint: str = "", *, tensors: tuple[str, ...] = ()) -> None:
        super().__init__(what, where, hint)
        self.tensors = tensors


class NotACheckpointError(BadFileError):
    """A file is not a checkpoint; the message says what it is."""


class UnknownFormatError(BadFileError):
    """A newer marlin-ckpt wrote the file, in a format that this one does not know."""


class UnsafeCheckpointError(BadFileError):
    """Loading the file would import names that are not known to be safe.

    Attributes:
        names: these names, such as `numpy.dtype`, sorted.
    """

    def __init__(self, what: str, where: str = "", hint: str = "", *, names: tuple[str, ...] = ()) -> None:
        super().__init__(what, where, hint)
        self.names = names


class CheckpointNotFoundError(MarlinError, FileNotFoundError):
    """There is no checkpoint where one was asked for."""

    exit_code = 4


class DirectoryInUseError(MarlinError):
    """Another run saves into the directory.

    Attributes:
        holder: what is known of that run, such as `{"host": ..., "pid": ..., "run_id": ...}`.
    """

    exit_code = 5

    def __init__(
        self, what: str, where: str = "", hint: str = "", *, holder: dict[str, Any] | None = None
    ) -> None:
        super().__init__(what, where, hint)
        self.holder = holder or {}


def drop_frames(error: BaseException) -> None:
    """Drops the tracebacks of an error that is kept for later, and of the errors that led to it.

    The frames of a traceback hold whatever was worked on: the state of a whole checkpoint, or the owner of
    the thread that failed.
    """
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            pending += (one.__cause__, one.__context__)  # of `raise ... from ...` in a handler both are set


class Translating:
    """A context in which what is raised is handed to a function that may raise an error of ours from it.

    A `Warning` that a filter makes an error passes through: it says nothing of a file or a state.

    A class, and not a generator under `contextmanager`: since Python 3.12 an error that goes through such a
    generator keeps the frames of all callers, and so the state that is saved or loaded, until the cyclic
    collector runs.
    """

    def __init__(self, translate: Callable[[Exception], None]) -> None:
        """Takes the function, which returns where the error is to pass through."""
        self._translate = translate

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, Warning):
            self._translate(error)
