"""The trash of a directory: what `clean --to-trash` moved away, until it is brought back or emptied.

Each removal has a folder of its own in it, numbered from 1, in which everything lies under the names that led
to it. It is moved there and back by changes of names alone, so that not one of its bytes is written.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

from marlin_ckpt import naming
from marlin_ckpt.directory import removing
from marlin_ckpt.directory.removing import Outcome, Plan, Removal
from marlin_ckpt.directory.walk import walk
from marlin_ckpt.entries import Item
from marlin_ckpt.errors import CheckpointNotFoundError, MarlinError, StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.naming import TRASH
from marlin_ckpt.storage.paths import open_store
from marlin_ckpt.storage.store import Store

_DIGITS = 6


def check(directory: PathText) -> None:
    """Checks that what has the trash's name is the trash: it holds nothing but a folder for each removal.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it is something else, or cannot be read.
    """
    with open_store(directory, follows=False) as store:
        _check(store)


def _check(store: Store) -> None:
    place = os.path.join(store.place, TRASH)
    try:
        listing = store.list(TRASH)
    except CheckpointNotFoundError:
        return
    except StorageError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _foreign("it is a symbolic link or a file", place) from error
        raise
    strangers = [name for name in (*listing.objects, *listing.folders) if not _number(name)]
    if strangers:
        raise _foreign(f"{os.path.basename(min(strangers))} is in it", place)


def _foreign(why: str, place: str) -> StorageError:
    hint = "give it another name, or remove without the trash"
    return StorageError(f"refused: not a trash of ours, {why}", place, hint)


def _number(name: str) -> int:
    """The number of a removal, by its folder; 0 where a name is no such folder's."""
    last = os.path.basename(name)
    return int(last) if len(last) >= _DIGITS and last.isascii() and last.isdigit() else 0


def fill(plan: Plan, on_removed: Callable[[Removal], None] = lambda _: None) -> Outcome:
    """Carries out a removal by moving the files into the trash.

    Args:
        plan: from a function of `removing` or of retention.
        on_removed: called with each that is moved.

    Returns:
        what was moved and what could not be; what dead runs left half written is removed at once.

    Raises:
        StorageError: what has the trash's name is something else; nothing was moved.
    """
    if plan.removals:
        with contextlib.suppress(CheckpointNotFoundError):  # the directory has gone, and all in it
            check(plan.directory)
    batches: list[str] = []

    def take(store: Store, removal: Removal) -> None:
        if not batches:
            batches.append(f"{TRASH}/{max(_batches(store), default=0) + 1:0{_DIGITS}}")
        store.move(removal.name, f"{batches[0]}/{removal.name}", removal.identity)

    try:
        return removing.carry_out(plan, take, on_removed)
    finally:
        if batches:
            with contextlib.suppress(MarlinError):  # where nothing could be moved
                remove_folders(plan.directory)


def _batches(store: Store) -> Iterator[int]:
    """The numbers of the removals whose files are in the trash."""
    with contextlib.suppress(CheckpointNotFoundError):
        yield from filter(None, map(_number, store.list(TRASH).folders))


def bring_back(
    directory: PathText, *, dry_run: bool = False, on_moved: Callable[[Removal], None] = lambda _: None
) -> Outcome:
    """Brings back what the last removal moved into the trash; what was put in its place meanwhile stays.

    Args:
        directory: the directory whose trash it is.
        dry_run: only say what would be brought back.
        on_moved: called with each that is back.

    Returns:
        what left the trash, by the paths that it has now, and what could not.

    Raises:
        CheckpointNotFoundError: there is no such directory, or nothing in its trash.
        StorageError: it cannot be read, is a symbolic link, or its trash is none of ours.
    """
    with open_store(directory, follows=False) as store:
        _check(store)
        # A removal that failed or was killed before it moved a file has left a folder with none in it.
        batches = (f"{TRASH}/{number:0{_DIGITS}}" for number in sorted(_batches(store), reverse=True))
        found = next(filter(None, (_in_trash(store, one) for one in batches)), None)
        if not found:
            if not dry_run:
                store.remove_empty(TRASH)
            raise CheckpointNotFoundError("there is nothing in the trash", store.place)
    if dry_run:
        return Outcome(tuple(found), ())
    done = removing.carry_out(Plan(store.place, tuple(found)), _put_back, on_moved)
    remove_folders(directory)
    return done


def _put_back(store: Store, removal: Removal) -> None:
    store.move(removal.name, removal.name.split("/", 2)[2], removal.identity)


def _in_trash(store: Store, batch: str) -> list[Removal]:
    """What one removal moved, by the paths that it had, in order of the index."""

    def fail(name: str, error: OSError) -> None:
        raise StorageError.of("cannot read the trash", os.path.join(store.place, name), error) from error

    items: list[Item] = []
    with contextlib.suppress(CheckpointNotFoundError):  # some object stores list a folder that has gone
        for level in walk(store, batch, recursive=True, on_error=fail):
            items += (item for name in level.objects if (item := store.head(name)) and not item.is_link)
            items += (one.item for one in level.checkpoints)
    found = []
    for item in items:
        path = os.path.join(store.place, item.name.removeprefix(f"{batch}/"))
        found.append(Removal(path, item.size_bytes, "", item.name, item.identity))
    return sorted(found, key=lambda one: naming.order(one.path))


def plan_emptying(directory: PathText) -> Plan:
    """Decides to remove what lies in the trash, if there is one, for good.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, is a symbolic link, or its trash is none of ours.
    """
    check(directory)
    try:
        found = removing.plan(directory, lambda _, __: "in the trash", TRASH, recursive=True)
        return replace(found, staying=removing.plan_sweeping(directory, recursive=True).staying)
    except CheckpointNotFoundError:
        with open_store(directory, follows=False) as store:
            return Plan(store.place, ())


def remove_folders(directory: PathText) -> None:
    """Removes the trash as far as nothing but folders is left of it.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """
    with open_store(directory, follows=False) as store:
        store.remove_empty(TRASH)
