"""Where the system refuses a call, the error gives the system's reason and a hint that fits it."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from marlin_ckpt.cli.main import main
from marlin_ckpt.errors import StorageError
from marlin_ckpt.storage.local import system_calls

SAYS = {
    errno.EACCES: "permissions",
    errno.EPERM: "immutable",
    errno.EROFS: "mounted read-only",
    errno.ENOSPC: "df -h",
    errno.EDQUOT: "quota",
    errno.EFBIG: "ulimit -f",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "a file has the name of a directory",
    errno.EISDIR: "a directory has the name",
    errno.ENAMETOOLONG: "255 bytes",
    errno.ELOOP: "in a circle",
    errno.EMFILE: "ulimit -n",
}


@pytest.mark.parametrize("code", SAYS, ids=errno.errorcode.get)
def test_the_hint_fits_the_reason(code: int) -> None:
    error = StorageError.of("cannot write", "a", OSError(code, os.strerror(code)))
    assert str(error) == f"cannot write: {os.strerror(code)}: a"
    assert SAYS[code] in error.hint


@pytest.mark.parametrize("code", [errno.EIO, None])
def test_there_is_no_hint_where_there_is_nothing_to_advise(code: int | None) -> None:
    assert StorageError.of("cannot write", "a", OSError(code, "why")).hint == ""


class _ReadOnly:
    """A C library that says of every path what a mount that is read-only says."""

    def access(self, *_: object) -> int:
        ctypes.set_errno(errno.EROFS)
        return -1


def test_train_onto_a_file_system_that_is_mounted_read_only_says_so(
    tmp_path, repository, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(system_calls, "_LIBC", _ReadOnly())
    config = os.fspath(repository / "configs/ci.yaml")
    code = main(["train", "--config", config, "--set", f"checkpointer.save_dir={tmp_path}/saved"])
    assert code == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: cannot write: Read-only file system: {tmp_path}"
    assert hint.startswith("hint: its file system is mounted read-only")


def test_a_directory_passes_that_may_be_written_to_and_one_that_is_missing_does_not(tmp_path) -> None:
    system_calls.check_access(os.fspath(tmp_path), os.W_OK | os.X_OK)
    with pytest.raises(FileNotFoundError):
        system_calls.check_access(os.fspath(tmp_path / "missing"), os.W_OK)
