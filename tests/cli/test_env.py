"""`marlin-ckpt env`: facts for a bug report, from a directory that is left as it was."""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from marlin_ckpt import __version__
from marlin_ckpt.operations import environment
from marlin_ckpt.storage.local import abilities, cloning, mounts, system_calls, temporary
from tests.support.clones import Clones
from tests.support.users import unprivileged

WORKS = {"works": True, "reason": None}
NOT_TRIED = {"works": None, "reason": None}


@pytest.fixture
def found(run_main, tmp_path):
    """Runs `env --json` of a directory and gives the document."""

    def run(directory: Path | str = tmp_path) -> dict:
        code, out, err = run_main("env", directory, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return run


def test_it_says_the_versions_that_are_installed_and_what_torch_is_built_for(found):
    document = found()
    assert document["marlin_ckpt"] == __version__
    assert document["python"] == ".".join(map(str, sys.version_info[:3]))
    assert torch.__version__.startswith(document["packages"]["torch"])  # its metadata may lack +cu130
    build = document["torch_build"]
    assert build == (f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU")


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", "CUDA 12.8"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4.43482'\n", "ROCm 6.4.43482"),
        ("cuda = None\nxpu: Optional[str] = '20250101'\n", "XPU 20250101"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "CPU"),
        (None, ""),
    ],
)
def test_the_build_of_torch_is_read_from_its_module_of_versions(monkeypatch, tmp_path, text, build):
    if text is not None:
        (tmp_path / "version.py").write_text(text)
    torch_ = types.SimpleNamespace(version="1", locate_file=lambda name: tmp_path / os.path.basename(name))
    monkeypatch.setattr(environment.metadata, "distribution", lambda name: torch_)
    assert environment.versions().torch_build == build


def test_a_package_that_is_not_installed_is_null_and_on_no_line(found, run_main, tmp_path, monkeypatch):
    def missing(name):
        raise environment.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(environment.metadata, "version", missing)
    assert set(found()["packages"].values()) == {None}
    out = run_main("env", tmp_path)[1]
    assert "numpy                not installed\n" in out
    assert "lightning" not in out


def test_it_tries_what_the_file_system_can_do_and_leaves_nothing(found, tmp_path):
    document = found()
    assert document["is_writable"] is True
    assert document["refusal"] is None
    space = os.statvfs(tmp_path)
    assert document["block_bytes"] == space.f_bsize
    assert document["total_bytes"] == space.f_blocks * space.f_frsize
    assert document["directory"] == str(tmp_path)
    for name in ("flock", "fcntl_locks", "directory_sync", "hard_links"):
        assert document["abilities"][name] == WORKS
    assert os.listdir(tmp_path) == []


def test_the_file_system_is_the_one_that_the_system_names(found):
    listed = subprocess.run(
        ["stat", "-f", "-c", "%T", "/dev/shm"], capture_output=True, text=True, check=True
    )
    document = found("/dev/shm")
    assert document["file_system"] == listed.stdout.strip() == "tmpfs"
    assert document["is_network"] is False


def _refuse(code):
    def refuse(*_args, **_options):
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize(
    ("name", "module", "call", "code"),
    [
        ("direct_io", system_calls, "set_direct", errno.EINVAL),
        ("preallocation", system_calls, "allocate", errno.EOPNOTSUPP),
        ("shared_blocks", cloning, "clone_range", errno.EOPNOTSUPP),
        ("hard_links", os, "link", errno.EPERM),
        ("exchange", system_calls, "exchange", errno.EINVAL),
        ("flock", fcntl, "flock", errno.ENOLCK),
        ("fcntl_locks", fcntl, "lockf", errno.ENOSYS),
        ("directory_sync", os, "fsync", errno.EINVAL),
    ],
)
def test_what_a_file_system_refuses_is_said_in_its_words_and_is_no_failure(
    found, run_main, tmp_path, monkeypatch, name, module, call, code
):
    Clones().put_in(monkeypatch)
    monkeypatch.setattr(module, call, _refuse(code))
    document = found()
    assert document["abilities"].pop(name) == {"works": False, "reason": os.strerror(code)}
    assert all(one == WORKS for one in document["abilities"].values())
    assert f" no: {os.strerror(code)}\n" in run_main("env", tmp_path)[1]
    assert os.listdir(tmp_path) == []


def test_a_lock_that_excludes_nobody_is_no_lock(found, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None)
    assert found()["abilities"]["flock"]["reason"] == "a second descriptor gets the lock too"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_directory_in_which_no_file_can_be_made_is_no_failure(found, run_main, tmp_path, monkeypatch, code):
    monkeypatch.setattr(temporary, "create", _refuse(code))
    document = found()
    assert (document["is_writable"], document["refusal"]) == (False, os.strerror(code))
    assert all(one == NOT_TRIED for one in document["abilities"].values())
    assert f"files                none can be made: {os.strerror(code)}\n" in run_main("env", tmp_path)[1]


def test_a_directory_of_the_kernels_is_looked_at_too(found):
    document = found("/proc")
    assert (document["file_system"], document["is_writable"]) == ("proc", False)
    assert document["free_files"] is None


def test_a_directory_that_is_not_there_exits_4(run_main, tmp_path):
    missing = tmp_path / "missing"
    assert run_main("env", missing) == (4, "", f"error: no such directory: {missing}\n")
    assert run_main("env", "") == (4, "", "error: no such directory\n")


def test_a_file_in_place_of_the_directory_exits_1(run_main, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = run_main("env", tmp_path / "file")
    assert (code, out) == (1, "")
    error, hint = err.splitlines()
    assert error == f"error: cannot read the directory: Not a directory: {tmp_path / 'file'}"
    assert hint == f"hint: it is a file; marlin-ckpt show {tmp_path / 'file'} looks into it"


def test_a_directory_that_may_not_be_read_exits_1_and_one_that_is_read_only_0(run_main, public):
    (public / "closed").mkdir(0)
    (public / "open").mkdir(0o555)
    with unprivileged():
        closed = run_main("env", public / "closed")
        code, out, _ = run_main("env", public / "open", "--json")
    assert closed[:2] == (1, "")
    error, hint = closed[2].splitlines()
    assert error == f"error: cannot read the directory: Permission denied: {public / 'closed'}"
    assert "permissions" in hint
    assert (code, json.loads(out)["refusal"]) == (0, "Permission denied")


@pytest.mark.parametrize(("call", "names"), [("system_calls.exchange", 2), ("os.unlink", 3)])
def test_what_a_killed_process_leaves_is_swept_as_any_temporary_file(run_main, tmp_path, call, names):
    script = (
        "import os, signal; from marlin_ckpt.storage.local import abilities, system_calls\n"
        f"{call} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"abilities.look_at({str(tmp_path)!r})"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == -signal.SIGKILL
    left = os.listdir(tmp_path)
    assert len(left) == names
    assert all(temporary.is_temporary(name) for name in left)
    assert run_main("clean", tmp_path, "--yes")[0] == 0
    assert os.listdir(tmp_path) == []


def test_without_a_directory_it_looks_at_the_working_directory(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_main("env")
    assert (code, err) == (0, "")
    assert "\ndirectory            .\n" in out


def test_it_names_no_host_no_user_and_no_home(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = run_main("env")[1] + run_main("env", "--json")[1]
    for secret in (socket.gethostname(), os.path.expanduser("~"), str(tmp_path), getpass.getuser()):
        assert re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", out) is None


def test_a_name_that_would_move_the_cursor_is_escaped(run_main, tmp_path):
    (tmp_path / "a\x1b[2J").mkdir()
    code, out, _ = run_main("env", tmp_path / "a\x1b[2J")
    assert code == 0
    assert "a\\x1b[2J" in out
    assert "\x1b" not in out


_TABLE = r"""1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw,errors=remount-ro,data=ordered
36 35 0:50 / /home rw,relatime shared:1 - nfs4 fs1:/exp rw,vers=4.2,hard,addr=10.0.0.1,clientaddr=10.0.0.2
37 35 0:51 / /a\040b ro,nosuid - lustre 10.0.0.1@tcp:/l rw,flock,checksum
38 35 0:52 / /m rw,user_id=1000 - fuse.sshfs me@host:/ rw,user_id=1000,max_read=65536
39 35 0:53 / /o rw - fuse.own own rw
40 35 0:54 / /v rw - overlay overlay rw,lowerdir=/home/me/l,upperdir=/home/me/u,volatile
41 35 0:55 / /n rw shared:9 master:3 - fuseblk /dev/sdb rw
"""


@pytest.mark.parametrize(
    ("number", "mount"),
    [
        ("1", mounts.Mount("ext4", ("data=ordered", "rw"), False)),
        ("36", mounts.Mount("nfs4", ("hard", "rw", "vers=4.2"), True)),
        ("37", mounts.Mount("lustre", ("flock", "ro"), True)),
        ("38", mounts.Mount("fuse.sshfs", ("max_read=65536", "rw"), True)),
        ("39", mounts.Mount("fuse.own", ("rw",), None)),
        ("40", mounts.Mount("overlay", ("rw", "volatile"), False)),
        ("41", mounts.Mount("fuseblk", ("rw",), False)),
        ("3", mounts.Mount()),
        ("", mounts.Mount()),
    ],
)
def test_a_mount_is_found_by_its_number_without_addresses_and_paths(number, mount):
    assert mounts.parse(_TABLE, number) == mount


def test_a_mount_is_not_known_where_the_system_does_not_say(monkeypatch, found):
    monkeypatch.setattr(mounts, "_read", _refuse(errno.ENOENT))
    document = found()
    assert (document["file_system"], document["mount_options"], document["is_network"]) == (None, [], None)


def test_the_titles_are_those_of_the_abilities_that_are_tried(tmp_path):
    from marlin_ckpt.cli.views.environment import _ABILITIES

    assert set(abilities.look_at(str(tmp_path)).abilities) == set(_ABILITIES)
