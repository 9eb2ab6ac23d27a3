"""Decides which checkpoint a run continues from and which files it will replace, before it starts."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.directory import catalog, leftovers, notes, runs
from marlin_ckpt.directory.latest import newest_first
from marlin_ckpt.directory.neighbours import runs_of
from marlin_ckpt.directory.newest import newest_loadable, rescue
from marlin_ckpt.directory.remote.reaching import reach
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError, ConfigError, Fault, MarlinError
from marlin_ckpt.formats import inspection
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.local import system_calls
from marlin_ckpt.storage.local.files import doing
from marlin_ckpt.storage.local.publishing import existing_and_missing
from marlin_ckpt.urls import is_url

# Calls a function in one of the processes that train a run together; all have its result, or raise its error.
ByMain = Callable[[Callable[[], Any]], Any]


@dataclass(frozen=True, slots=True)
class Start:
    """The decision on how a run starts.

    Attributes:
        save_dir: where the run saves.
        resumes_from: the checkpoint that it continues, or "".
        is_bad: whether that one is bad, as all others are; to load it raises the error that says why.
        skipped: newer checkpoints that are not intact, each with the reason.
        passed_over: the same by their paths.
        runs: where there are several, all whose checkpoints are there, the one that it continues first.
        deletes: the files of an earlier run that are removed first.
        replaces: the model files of an earlier run that the run will save over.
    """

    save_dir: str
    resumes_from: str = ""
    is_bad: bool = False
    skipped: tuple[str, ...] = ()
    passed_over: Mapping[str, str] = field(default_factory=dict)
    deletes: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


def leased(
    args: DefaultCheckpointerArguments, *, epochs: int, resume: bool
) -> contextlib.AbstractContextManager[object]:
    """Holds the lease of `save_dir`, if that exists, so that no other run saves there.

    A directory that does not exist is not made yet, since the run may still turn out to be impossible. Nor is
    anything made in one in which no run has had the lease, where `decide` would refuse it.

    Args:
        args: the run's.
        epochs: of the run.
        resume: as for `decide`.

    Raises:
        DirectoryInUseError: another run saves there.
        ConfigError: the run would write over another.
        StorageError: the directory cannot be written to.
    """
    reach(args)
    save_dir = os.fspath(args.save_dir)
    if not (resume or paths.exists(os.path.join(save_dir, naming.OWN_DIRECTORY))):
        _refuse_another_run(args, epochs)
    if not (args.checkpoint and epochs and paths.is_folder(save_dir)):
        return contextlib.nullcontext()
    _check_writable(save_dir)
    return leftovers.settled(save_dir)


def decide(
    args: DefaultCheckpointerArguments,
    *,
    epochs: int,
    resume: bool,
    guards: bool = True,
    bad: Mapping[str, str] = MappingProxyType({}),
) -> Start:
    """Decides how a run starts, from the files in `save_dir`; changes nothing.

    Args:
        args: the run's.
        epochs: how many the run has; its indices go from 0 to `epochs - 1`.
        resume: continue from the newest checkpoint in `save_dir`, if there is one.
        guards: exclude a checkpoint with which several runs in a row have failed.
        bad: the paths of checkpoints that were chosen before and could not be loaded, with the reasons; where
            there is no other one, the run continues from none.

    Raises:
        ConfigError: it would write over another run, which it neither continues nor was told to delete.
        StorageError: the directory cannot be read.
    """
    reach(args)
    save_dir = os.fspath(args.save_dir)
    checkpoints = checkpoints_of(args)
    if resume and checkpoints:
        return _continued(args, checkpoints, guards=guards, bad=bad)
    if not (args.checkpoint and epochs):
        return Start(save_dir)
    if args.delete_existing_checkpoints:
        deletes = [entry.path for entry in _files(save_dir, extension=args.file_ext)]
        return Start(save_dir, deletes=tuple(deletes), replaces=_model_file(args, epochs - 1, but=deletes))
    if not resume:
        _refuse_another_run(args, epochs)
    return Start(save_dir)


def _refuse_another_run(args: DefaultCheckpointerArguments, epochs: int) -> None:
    """Refuses to begin where the files of another run are: a new run has none yet, so all are another's."""
    if not (args.checkpoint and epochs) or args.delete_existing_checkpoints or _continues(args):
        return
    for key, place in (("save_dir", args.save_dir), ("model_state_save_dir", args.model_state_save_dir)):
        directory = "" if place is None else os.fspath(place)
        found = directory and _files(directory, prefix=args.file_prefix, extension=args.file_ext)
        if not found:
            continue
        newest = max(map(inspection.inspect, found), key=lambda one: (one.written_s, one.entry.index or 0))
        run = f"run {newest.manifest.run_id}" if newest.manifest else "a run that is not known"
        what = f"{directory} holds {run}, its newest file {newest.entry.path}; a new run would write over it"
        ways = (
            "--resume continues it",
            f"--set checkpointer.{key}=DIR saves elsewhere",
            "--overwrite deletes it and begins anew",
        )
        raise ConfigError([Fault(f"checkpointer.{key}", what)], "; ".join(ways))


def _continues(args: DefaultCheckpointerArguments) -> bool:
    """Whether what the configuration loads lies where the run saves."""
    if not args.load_dir:
        return False
    save_dir, load_dir = paths.real(args.save_dir), paths.real(args.load_dir)
    if args.load_filename:
        load_dir = os.path.dirname(paths.real(os.path.join(load_dir, args.load_filename)))
    elif load_dir != save_dir:
        latest = next(newest_first(load_dir, args.file_prefix, args.file_ext), None)
        load_dir = os.path.dirname(latest.path) if latest else load_dir
    return load_dir == save_dir


def _continued(
    args: DefaultCheckpointerArguments, checkpoints: list[Entry], *, guards: bool, bad: Mapping[str, str]
) -> Start:
    """Continues the run that saved last; where another one has a greater index, that does not count."""
    found = runs_of(checkpoints)
    others = {one.path for run in found[1:] for one in run.entries}
    suspects = _suspects(args, [one for one in checkpoints if one.path not in others]) if guards else {}
    skipped = dict(bad)

    def candidates() -> list[Entry]:
        # Those that came meanwhile, too, which are looked at as they come.
        left_out = {*others, *suspects, *bad}
        return [one for one in reversed(checkpoints_of(args)) if one.path not in left_out]

    newest = newest_loadable(candidates, skipped.__setitem__)
    if newest is None and suspects:  # a bad file is no other one to begin with
        suspects.clear()
        newest = newest_loadable(candidates, skipped.__setitem__)
    if newest is None and bad:
        return Start(os.fspath(args.save_dir))
    chosen = newest or [one for one in checkpoints if one.path not in others][-1]
    over = suspects | skipped
    told = tuple(f"{path}: {reason}" for path, reason in over.items())
    several = tuple(runs.shown(run.run_id) for run in found) if len(found) > 1 else ()
    return Start(os.fspath(args.save_dir), chosen.path, newest is None, told, over, runs=several)


def _suspects(args: DefaultCheckpointerArguments, checkpoints: list[Entry]) -> dict[str, str]:
    """Checkpoints with which too many runs have failed, with the reason; none where there is no other one."""
    counts = notes.failed_starts(os.fspath(args.save_dir))
    found = {
        one.path: f"{counts[one.path]} runs in a row have begun with it and made no newer one; "
        "--no-crash-loop-guard takes it all the same"
        for one in checkpoints
        if counts.get(one.path, 0) >= notes.MOST_STARTS
    }
    return found if len(found) < len(checkpoints) else {}


def checkpoints_of(args: DefaultCheckpointerArguments) -> list[Entry]:
    """The checkpoints directly in save_dir, where a run saves: a sub-directory may be another run's."""
    earlier = _files(os.fspath(args.save_dir), prefix=args.file_prefix, extension=args.file_ext)
    return [entry for entry in earlier if entry.name and entry.name.kind is naming.Kind.CHECKPOINT]


def _files(directory: str, *, extension: str, prefix: str | None = None) -> list[Entry]:
    with contextlib.suppress(CheckpointNotFoundError):
        return catalog.find(directory, prefix=prefix, extension=extension)
    return []


def _model_file(args: DefaultCheckpointerArguments, index: int, but: Iterable[str] = ()) -> tuple[str, ...]:
    """The path of the model file that a run will replace, where there is one."""
    if args.model_state_save_dir is None:
        return ()
    name = naming.FileName(args.file_prefix, index, args.file_ext, naming.Kind.MODEL)
    path = os.path.join(args.model_state_save_dir, str(name))
    is_gone = paths.absolute(path) in map(paths.absolute, but)
    return (path,) if catalog.entry(path) and not is_gone else ()


def apply(start: Start, args: DefaultCheckpointerArguments, *, epochs: int) -> None:
    """Sets the arguments as decided, and checks before the first step that `save_dir` can be written to.

    A run that continues must not first delete the checkpoint that it continues from, and a run without epochs
    must delete nothing.

    Raises:
        StorageError: `save_dir` cannot be made or written to.
    """
    if start.resumes_from:
        args.resume_from = start.resumes_from
    if start.resumes_from or not epochs:
        args.delete_existing_checkpoints = False
    if args.checkpoint and epochs:
        _check_writable(start.save_dir)


def _check_writable(directory: str) -> None:
    """Checks the nearest parent that exists; makes none, since the run may still be impossible."""
    if is_url(directory):  # its lease shows it
        return
    with doing("cannot look at", directory):
        existing, _ = existing_and_missing(directory)
    with doing("cannot write", existing):
        system_calls.check_access(existing, os.W_OK | os.X_OK)


def alone(work: Callable[[], Any]) -> Any:
    """Calls it here: no other process trains the run."""
    return work()


@dataclass
class Starter:
    """Decides how a run starts, and again where the checkpoint that it chose turns out to be bad.

    Attributes:
        args, epochs, resume, guards: as for `decide`.
        announce: told of each decision before it is applied.
        by_main: decides for all processes of the run.
        start: the last decision, which the arguments follow.
    """

    args: DefaultCheckpointerArguments
    epochs: int
    resume: bool
    guards: bool
    announce: Callable[[Start], None]
    by_main: ByMain = alone
    start: Start = field(init=False)

    def __post_init__(self) -> None:
        """Decides for the first time; raises as `decide` and `apply` do."""
        self._bad: dict[str, str] = {}  # checkpoints that were sound when they were chosen
        self._begin(self._decided())

    def finds_another(self, error: MarlinError) -> bool:
        """Passes over the checkpoint that was chosen; whether there is another one; if not, adds a hint.

        Args:
            error: that loading it has raised.

        Raises:
            As `decide` and `apply` do.
        """
        self._bad[self.start.resumes_from] = error.what
        another = self._decided()
        if another.resumes_from:
            self._begin(another)
        else:
            anew = "--overwrite deletes them all and begins anew"
            hints = (error.hint, rescue(self.start.resumes_from), anew)
            error.hint = "; ".join(one for one in hints if one)
        return bool(another.resumes_from)

    def _decided(self) -> Start:
        found: Start = self.by_main(
            lambda: decide(
                self.args, epochs=self.epochs, resume=self.resume, guards=self.guards, bad=self._bad
            )
        )
        return found

    def _begin(self, start: Start) -> None:
        self.start = start
        self.announce(start)
        apply(start, self.args, epochs=self.epochs)
