"""Removing what lies in one store: what is decided and what is done are the same value.

Between the two nothing leads elsewhere: what goes is reached by names alone, without following links, and
must be in the folder that was read, and be what was seen, when the decision was made. A symbolic link swapped
in meanwhile makes the removal fail, never go astray.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from marlin_ckpt import naming
from marlin_ckpt.directory.walk import OnError, walk
from marlin_ckpt.entries import Entry, Identity, Item
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import layouts
from marlin_ckpt.storage import space
from marlin_ckpt.storage.paths import open_store
from marlin_ckpt.storage.space import Taken
from marlin_ckpt.storage.store import Store

# Why something goes, given its name without its folder and, of a folder, the checkpoint; "": it stays.
_Reason = Callable[[str, Entry | None], str]
Dispose = Callable[[Store, "Removal"], None]


@dataclass(frozen=True, slots=True)
class Removal:
    """One file, or one folder that is a checkpoint, that is removed or will be.

    Attributes:
        path: its path, which begins with the directory as it was given.
        size_bytes: its size in bytes; of a folder, of all its files together.
        reason: why it is removed.
        name: its path relative to the directory.
        identity: what the store knows it by. Something else that has taken its name is not removed.
    """

    path: str
    size_bytes: int
    reason: str
    name: str
    identity: Identity


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be removed, or a directory that could not be read, and why."""

    path: str
    error: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be removed from a directory; nothing is done yet.

    Attributes:
        directory: of it.
        removals: each of what goes.
        unreadable: what could not be read.
        staying: the paths of what stays and may share bytes with what goes.
    """

    directory: str
    removals: tuple[Removal, ...]
    unreadable: tuple[Failure, ...] = ()
    staying: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was removed and what could not be.

    Attributes:
        removed: each of what has gone.
        failures: each of what has not.
        unshared_bytes: what that gives back, where files that stay share bytes with it, or it did; None where
            none does.
    """

    removed: tuple[Removal, ...]
    failures: tuple[Failure, ...]
    unshared_bytes: int | None = None

    @property
    def bytes_freed(self) -> int:
        """What the removal gives back: the lengths of the files together, where these share nothing."""
        if self.unshared_bytes is not None:
            return self.unshared_bytes
        return sum(removal.size_bytes for removal in self.removed)


def plan_cleaning(
    directory: PathText,
    *,
    extension: str = "pt",
    prefix: str | None = None,
    recursive: bool = False,
    sweeps: bool = True,
) -> Plan:
    """Decides what `clean` removes: the regular files of one extension, and what dead runs left half written.

    Args:
        directory: the directory; a symbolic link to one is refused.
        extension: exactly, without its dot.
        prefix: only checkpoints and model files of this prefix, by the grammar; None: all of the extension,
            and folders that are a checkpoint of ours and have an extension. Those of other tools stay.
        recursive: sub-directories too.
        sweeps: what dead runs left half written too.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """

    def reason(name: str, folder: Entry | None) -> str:
        if folder is not None and layouts.is_foreign(folder):
            return ""
        checkpoint = None if folder is None else folder.name
        if prefix is not None:
            fits = checkpoint or naming.parse(name, prefix, extension)
            return f"prefix {prefix}" if fits is not None and fits.prefix == prefix else ""
        if checkpoint is not None and checkpoint.extension:
            return f"extension {checkpoint.extension}"
        return f"extension {extension}" if naming.has_extension(name, extension) else ""

    return plan(directory, reason, recursive=recursive, sweeps=sweeps)


def plan_sweeping(directory: PathText, *, recursive: bool = False) -> Plan:
    """Decides to remove what dead runs left half written directly in a directory, or in those below it too.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """
    return plan(directory, lambda _, __: "", recursive=recursive)


def planned(entry: Entry, why: str) -> Removal:
    """The removal of a checkpoint that was decided about."""
    return Removal(entry.path, entry.size_bytes, why, entry.item.name, entry.item.identity)


def failing(store: Store, failures: list[Failure]) -> OnError:
    """Notes what cannot be read in a store among the failures."""

    def fail(name: str, error: OSError) -> None:
        failures.append(Failure(os.path.join(store.place, name), error.strerror or str(error)))

    return fail


def plan(
    directory: PathText, reason: _Reason, start: str = "", *, recursive: bool = False, sweeps: bool = True
) -> Plan:
    """Decides about everything in a folder of a directory.

    Args:
        directory: the directory; a symbolic link to one is refused.
        reason: why something goes.
        start: the folder; "" is the directory itself.
        recursive: what is in folders below it too.
        sweeps: what dead runs left half written there goes too.

    Raises:
        CheckpointNotFoundError: there is no such directory or folder.
        StorageError: one cannot be read, or is a symbolic link.
    """
    removals: list[Removal] = []
    failures: list[Failure] = []
    staying: list[str] = []
    with open_store(directory, follows=False) as store:
        fail = failing(store, failures)
        for level in walk(store, start, recursive=recursive, on_error=fail):
            going = [(name, why) for name in level.objects if (why := reason(os.path.basename(name), None))]
            going += _left_behind(store, level.folder, fail) if sweeps else []
            for name, why in going:
                if item := _look(store, name, fail):
                    removals.append(planned(Entry(store.place, item, None), why))
            there = (*level.objects, *(one.item.name for one in level.checkpoints))
            staying += (os.path.join(store.place, name) for name in there)
            folders = ((one, reason(os.path.basename(one.item.name), one)) for one in level.checkpoints)
            removals += [planned(one, why) for one, why in folders if why]
    gone = {one.path for one in removals}
    return Plan(
        store.place,
        tuple(sorted(removals, key=lambda one: naming.order(one.path))),
        tuple(failures),
        tuple(path for path in staying if path not in gone),
    )


def _left_behind(store: Store, folder: str, fail: OnError) -> Iterator[tuple[str, str]]:
    """What dead runs left half written in a folder, with the reason."""
    for name in store.unfinished(folder):
        try:
            if store.is_abandoned(name):
                yield name, "left by a dead run"
        except FileNotFoundError:
            continue  # its run has just finished with it
        except OSError as error:
            fail(name, error)


def _look(store: Store, name: str, fail: OnError) -> Item | None:
    """What is to go, unless it has gone already, or is a link."""
    try:
        item = store.head(name)
        if item is not None and item.is_link:
            return None
        if item is not None and item.is_folder:  # that a dead run left half written
            files = map(store.head, store.list(name).objects)
            return item._replace(size_bytes=sum(one.size_bytes for one in files if one is not None))
    except OSError as error:
        fail(name, error)
        return None
    return item


def _remove(store: Store, removal: Removal) -> None:
    store.remove(removal.name, removal.identity)


def would_be(plan: Plan) -> Outcome:
    """What comes of a plan where all that it removes can be removed."""
    return Outcome(plan.removals, plan.unreadable, _unshared_bytes(_taken(plan), plan.removals))


def _taken(plan: Plan) -> dict[str, Taken]:
    """What all takes that a plan is about, by its path; nothing where none of what goes shares bytes."""
    going = {one.path: space.taken_at(one.path) or space.alone(one.size_bytes) for one in plan.removals}
    if not any(one.shares for one in going.values()):
        return {}
    staying = {path: found for path in plan.staying if (found := space.taken_at(path))}
    return going | staying


def _unshared_bytes(taken: dict[str, Taken], removed: Iterable[Removal]) -> int | None:
    gone = {one.path for one in removed}
    staying = (one for path, one in taken.items() if path not in gone)
    return space.freed_bytes((taken[path] for path in gone), staying) if taken else None


def carry_out(
    plan: Plan, dispose: Dispose = _remove, on_removed: Callable[[Removal], None] = lambda _: None
) -> Outcome:
    """Removes what a plan names; what cannot be removed is reported and the rest goes on.

    What has gone meanwhile, or is being removed by another process, counts neither as removed nor as a
    failure; what has been replaced by another of its name stays.

    Args:
        plan: what to remove.
        dispose: takes it away; what a dead run left half written is always removed.
        on_removed: called with each that is gone.
    """
    removed: list[Removal] = []
    failures = list(plan.unreadable)
    taken = _taken(plan)  # before any goes
    with contextlib.ExitStack() as stack:
        store = None
        for removal in plan.removals:
            is_rest = False
            try:
                store = store or stack.enter_context(open_store(plan.directory, follows=False))
                is_rest = store.is_unfinished(removal.name)
                (_remove if is_rest else dispose)(store, removal)
                removed.append(removal)
                on_removed(removal)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno == errno.EAGAIN or (is_rest and error.errno == errno.EBUSY):
                    continue  # locked by whoever removes it, or has begun to write it anew
                failures.append(Failure(removal.path, error.strerror or str(error)))
    return Outcome(tuple(removed), tuple(failures), _unshared_bytes(taken, removed))
