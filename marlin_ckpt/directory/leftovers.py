"""Removes what earlier runs left, and logs what it did; a failure ends no run."""

import contextlib
import logging
import os
from collections.abc import Iterator

from marlin_ckpt.directory import lease, removing
from marlin_ckpt.directory.removing import Removal
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.local import staging
from marlin_ckpt.urls import is_url

_logger = get_logger(__name__)


def delete_existing(directory: str, extension: str, logger: logging.Logger) -> tuple[Removal, ...]:
    """Removes the files of an extension and the sharded checkpoints in a directory; returns what has gone."""
    if not paths.exists(directory):
        return ()
    logger.warning("Deleting the files with extension %s in %s.", extension, directory)
    try:
        plan = removing.plan_cleaning(directory, extension=extension, sweeps=False)
        outcome = removing.carry_out(plan)
    except MarlinError as error:
        logger.error("Could not delete checkpoints: %s", error)  # noqa: TRY400 - no news in a traceback
        return ()
    for failure in outcome.failures:
        logger.error("Could not delete %s: %s", failure.path, failure.error)
    return outcome.removed


def sweep_beside(path: PathText) -> None:
    """Removes what dead processes left half written in the directory of a file that is to be written."""
    directory = os.path.dirname(os.fspath(path)) or os.curdir
    if is_url(directory):  # without its lease nobody knows whose uploads have been left
        with paths.open_store(directory):  # reached here first, and not when the program ends
            return
    sweep(os.path.realpath(directory) if os.path.islink(directory) else directory, _logger)


def settle(directory: str) -> None:
    """Gives a folder its name back whose replacement a kill interrupted between two renames.

    That happens on a file system that cannot exchange two names in one instant. Whoever goes on from what is
    in a directory calls this before.
    """
    if is_url(directory):
        return
    with contextlib.suppress(MarlinError):  # what cannot be changed can still be loaded
        staging.settle(directory)


@contextlib.contextmanager
def settled(directory: str) -> Iterator[None]:
    """Holds the lease of a directory, after `settle`."""
    with lease.held(directory):
        settle(directory)
        yield


def sweep(directory: str, logger: logging.Logger) -> None:
    """Removes what dead runs left half written, which can be as large as all else; see also `settle`."""
    settle(directory)
    try:
        outcome = removing.carry_out(removing.plan_sweeping(directory))
    except MarlinError:  # a save must not fail for what others left
        return
    for removal in outcome.removed:
        logger.warning("Removed %s, left half written by a run that has died.", removal.path)
