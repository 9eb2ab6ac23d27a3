"""A folder is saved while a system call fails: an error of ours, the old folder whole, and no litter."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from marlin_ckpt import StorageError
from marlin_ckpt.directory import catalog, leftovers
from marlin_ckpt.formats import verification
from marlin_ckpt.storage.local import staging
from tests.support.folder_checkpoints import read_all, save, staged
from tests.support.leftovers import open_descriptors
from tests.support.refused_calls import Refusal, refusals

NAME = "checkpoint-500"
OLD = {"old": b"old", "deep/er": b"x"}
NEW = {"model.safetensors": b"weights" * 300, "rank/0/rng.pth": b"r"}
CODES = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.ESTALE]


def faults_of_a_save(directory: str, refusal: Refusal, *, over: bool, lasts: bool) -> Iterator[str]:
    """Saves while a call is refused, and says what is then wrong."""
    before = read_all(directory)
    descriptors = open_descriptors()
    error = None
    with pytest.MonkeyPatch.context() as patch:
        refusal.put_in(patch)
        try:
            save(directory, NAME, NEW)
        except StorageError as caught:
            error = caught
            caught.__traceback__ = None
        except OSError as caught:
            yield f"a bare {caught!r}"
    if open_descriptors() != descriptors:
        yield "a descriptor is left open"
    if error is not None and directory not in str(error):
        yield f"no path in {error}"
    there = {name: data for name, data in read_all(directory).items() if name.startswith(f"{NAME}/")}
    is_new = bool(there) and there != before
    if error is not None and is_new and not lasts:
        yield f"an error, {error}, and the folder is new"
    if error is None and not is_new:
        yield "no error, and no new folder"
    if there and verification.verify(catalog.entry(os.path.join(directory, NAME))).status != "intact":
        yield "the folder is not intact"
    if over and not there:
        yield "no folder is left"
    if staged(directory) and not lasts and error is not None and "trees.py" not in refusal.refused:
        yield f"litter: {staged(directory)}"
    leftovers.sweep(directory, leftovers._logger)
    if set(os.listdir(directory)) - {NAME}:
        yield f"litter after the next sweep: {os.listdir(directory)}"


def prepare(directory: str, *, over: bool) -> None:
    for name in os.listdir(directory):
        fd = os.open(directory, os.O_RDONLY)
        staging.trees.remove_folder(fd, name)
        os.close(fd)
    if over:
        save(directory, NAME, OLD)


@pytest.mark.parametrize("over", [True, False], ids=["over an older one", "new"])
@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
def test_whichever_call_is_refused_nothing_half_written_has_the_name(directory, cases, over, lasts):
    found, calls = [], 0
    for code in CODES[: cases(1, 4)]:
        for refusal in refusals(code, lasts=lasts):
            prepare(directory, over=over)
            wrong = faults_of_a_save(directory, refusal, over=over, lasts=lasts)
            found += [f"{refusal.refused}, {errno.errorcode[code]}: {one}" for one in wrong]
            calls += 1
    assert found == []
    assert calls > 100


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EBUSY])
def test_an_exchange_that_fails_is_an_error_and_no_reason_to_do_without(directory, monkeypatch, code):
    save(directory, NAME, OLD)
    before = read_all(directory)

    def fail(directory_fd, one, other):
        raise OSError(code, os.strerror(code), other)

    monkeypatch.setattr(staging, "exchange", fail)
    with pytest.raises(StorageError) as caught:
        save(directory, NAME, NEW)
    assert caught.value.errno == code
    assert read_all(directory) == before
    assert staged(directory) == []
