"""What the saves of one run write into the histories of the directories that they go to."""

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from marlin_ckpt.directory.history.events import Event, Resumed, Saved, SaveFailed, Started
from marlin_ckpt.directory.history.recorder import History
from marlin_ckpt.directory.history.removals import index_of, removed
from marlin_ckpt.directory.removing import Removal
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.keep import RetentionArguments
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving import about
from marlin_ckpt.saving.lineage import Lineage
from marlin_ckpt.storage.local.files import absolute

_GIT_S = 2.0  # a repository on a slow network drive must not hold a run up
_OF_A_START = ("delete_existing_checkpoints",)  # `--overwrite` sets it, and `--resume` clears it
_MOST_LETTERS = 2000  # of an error: some quote the data that they are about


class Recording:
    """The history of one run; see `History` for what happens where it cannot be written.

    Attributes:
        step: global steps that were done when the save under way began; -1 where that is not known.
    """

    def __init__(self, lineage: Lineage, by: str) -> None:
        """Takes the run.

        Args:
            lineage: of the run.
            by: what saves, as `Started` has it. "": nothing is written before `start` is called.
        """
        self.step = -1
        self._is_on = bool(by)
        self._lineage, self._by = lineage, by
        self._histories: dict[str, History] = {}
        self._begun: set[tuple[str, str]] = set()
        self._resumed: list[tuple[str, Resumed]] = []

    def of(self, directory: PathText) -> History:
        """The history of a directory."""
        path = absolute(directory)
        return self._histories.setdefault(path, History(path))

    def write(self, directory: PathText, *events: Event, is_durable: bool = False) -> None:
        """Writes events of this run into the history of a directory."""
        if not self._is_on:
            return
        named = (dataclasses.replace(one, run_id=self._lineage.run_id) for one in events)
        self.of(directory).write(*named, is_durable=is_durable)

    def note(self, directory: PathText, *events: Event) -> None:
        """Keeps events of this run in memory until something is written."""
        if self._is_on:
            self.of(directory).note(
                *(dataclasses.replace(one, run_id=self._lineage.run_id) for one in events)
            )

    def begin(self, directory: PathText, config: Any = None, keep: RetentionArguments | None = None) -> None:
        """Writes that the run begins to save in a directory, and what it resumed from; once for a directory.

        Args:
            directory: which is there.
            config: what the run was configured by.
            keep: its rules of retention.
        """
        if not self._is_on:
            return
        if (absolute(directory), self._lineage.run_id) not in self._begun:
            self.start(directory, Started(by=self._by, config_sha256=digest(config), keep=rules(keep)))
        elif self._resumed:
            self.write(directory, *self._taken_up(directory))

    def start(self, directory: PathText, started: Started) -> None:
        """Writes that the run begins, and what it resumed from.

        Args:
            directory: which is there.
            started: without the versions and the commit.
        """
        self._is_on = True
        self._begun.add((absolute(directory), self._lineage.run_id))
        started = dataclasses.replace(started, versions=about.versions(), git_commit=_commit_here())
        self.write(directory, started, *self._taken_up(directory))

    def resumes(self, path: str, manifest: Manifest | None, passed_over: Mapping[str, str]) -> None:
        """Notes what was loaded; it is written when the run begins to save, as a look at a file is no resume.

        Args:
            path: of the checkpoint.
            manifest: of the checkpoint, if it has one.
            passed_over: the paths of newer ones that were not taken, with the reasons.
        """
        index = manifest.index if manifest else index_of(path)
        event = Resumed(
            index=max(index, 0),
            parent_run_id=manifest.run_id if manifest else "",
            parent_save_number=manifest.save_number if manifest else 0,
            passed_over=dict(passed_over),
        )
        self._resumed = [(absolute(path), event)]

    def removed(self, directory: PathText, removals: Iterable[Removal], by: str) -> None:
        """Writes that checkpoints were removed.

        Args:
            directory: of the history.
            removals: what has gone.
            by: what removed it, as `Removed` has it.
        """
        if events := [removed(one, by) for one in removals]:
            self.write(directory, *events)

    def _taken_up(self, directory: PathText) -> list[Event]:
        taken, self._resumed = self._resumed, []
        return [
            dataclasses.replace(
                event,
                name=_named(path, directory),
                passed_over={_named(one, directory): why for one, why in event.passed_over.items()},
            )
            for path, event in taken
        ]


class Attempt:
    """One save, which becomes durable or fails; its end is written on the thread that saves."""

    def __init__(self, recording: Recording, directory: PathText, path: str, manifest: Manifest) -> None:
        """Takes what is known of a save before it begins.

        Args:
            recording: of its run.
            directory: whose history has it.
            path: that the file or folder will have.
            manifest: of the file.
        """
        self._recording, self._directory = recording, absolute(directory)
        self._path, self._manifest, self._step = absolute(path), manifest, recording.step
        self._has_ended = False

    def is_durable(self, report: SaveReport, manifest: Manifest | None = None) -> None:
        """Writes that the file is durable, and makes that durable, too.

        Args:
            report: of the save.
            manifest: the last one of the file, where it has changed.
        """
        self._has_ended = True  # what a caller does then may fail, but not this save
        facts = {name: getattr(report, name) for name in _REPORTED}
        name, number = _named(self._path, self._directory), (manifest or self._manifest).save_number
        event = Saved(name=name, save_number=number, step=self._step, **facts)
        self._recording.write(self._directory, event, is_durable=True)

    def is_given_up(self, why: str) -> None:
        """Writes that the save failed, in words; once."""
        if not self._has_ended:
            self._has_ended = True
            name, index = _named(self._path, self._directory), self._manifest.index
            event = SaveFailed(name=name, index=index, error=why[:_MOST_LETTERS])
            self._recording.write(self._directory, event)

    def has_failed(self, error: BaseException) -> None:
        """Writes that the save failed; once."""
        self.is_given_up(in_words(error))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Writes what the block fails with; an interrupt of the program is no failure of a save."""
        try:
            yield
        except Exception as error:
            self.has_failed(error)
            raise


_REPORTED = [one.name for one in dataclasses.fields(SaveReport) if one.name != "path"]


def in_words(error: BaseException) -> str:
    """What went wrong, for an event."""
    text = str(error)
    kind = type(error).__name__
    is_ours = isinstance(error, MarlinError) and text
    return (text if is_ours else f"{kind}: {text}" if text else kind)[:_MOST_LETTERS]


def rules(keep: RetentionArguments | None) -> dict[str, Any]:
    """Rules of retention as YAML has them, without those that are not set."""
    if not isinstance(keep, RetentionArguments):
        return {}
    return {name: value for name, value in dataclasses.asdict(keep).items() if value is not None}


def lasting(args: Any) -> dict[str, Any]:
    """The arguments in a dataclass by name, without those that a resume of the run changes."""
    own = (one.name for one in dataclasses.fields(args) if one.metadata.get("yaml", True))
    return {name: getattr(args, name) for name in own if name not in _OF_A_START}


def digest(config: Any) -> str:
    """The SHA-256 of what a run was configured by, as canonical JSON; "" of None."""
    if config is None:
        return ""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), default=_plain, skipkeys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return os.fspath(value) if isinstance(value, os.PathLike) else type(value).__qualname__


def _named(path: str, directory: PathText) -> str:
    """A path relative to a directory; absolute where it is elsewhere."""
    whole, above = absolute(path), absolute(directory).rstrip("/") + "/"
    return whole.removeprefix(above)


def _commit_here() -> str:
    try:
        return _commit_of(os.getcwd())
    except OSError:
        return ""


def _commit_of(directory: str) -> str:
    """The commit of the repository that a directory is in; "" where there is none, or no git."""
    try:
        git = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"],  # noqa: S607 - the user's git
            cwd=directory, timeout=_GIT_S, stdin=subprocess.DEVNULL, capture_output=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return git.stdout.decode("ascii", "replace").strip()
