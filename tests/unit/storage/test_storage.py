"""Publishing one file: what lies under its name, and the temporary files on the way."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt import StorageError, naming
from marlin_ckpt.storage.local import publishing, temporary
from marlin_ckpt.storage.local.publishing import make_directory, publish
from marlin_ckpt.storage.target import Target

FILE_NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in {b".", b".."}
)


def writes(data: bytes):
    return lambda target: target.put(data)


@pytest.fixture
def directory_fd(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


# Makes a temporary file as a save does, says so, and stays in the middle of it.
WRITER = """
import os, sys
from marlin_ckpt.storage.local import temporary
temporary.create(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY), "model_1.pt")
print("made", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path, repository):
    """A process that is in the middle of a save into `tmp_path`."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=repository, **pipes) as process:
        assert process.stdout.readline() == b"made\n"
        yield process
        process.kill()


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027, 0o077])
def test_a_published_file_has_the_mode_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        publish(tmp_path / "model_1.pt", writes(b"new"), 3)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model_1.pt").stat().st_mode) == 0o666 & ~umask


def test_a_file_that_replaces_a_symbolic_link_has_the_mode_that_the_umask_leaves(tmp_path):
    (tmp_path / "model_1.pt").symlink_to("nothing")
    umask = os.umask(0o027)
    try:
        publish(tmp_path / "model_1.pt", writes(b"new"), 3)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "model_1.pt").stat().st_mode) == 0o640


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_under_the_final_name_is_replaced_and_its_other_name_keeps_its_content(tmp_path, link):
    best, target = tmp_path / "best.pt", tmp_path / "model_1.pt"
    best.write_bytes(b"kept")
    link(best, target)
    publish(target, writes(b"new"), 3)
    assert best.read_bytes() == b"kept"
    assert target.read_bytes() == b"new"
    assert not target.is_symlink()
    assert target.stat().st_nlink == 1


def test_a_link_that_leads_nowhere_is_replaced_and_nothing_is_made_where_it_led(tmp_path):
    (tmp_path / "model_1.pt").symlink_to(tmp_path / "elsewhere")
    publish(tmp_path / "model_1.pt", writes(b"new"), 3)
    assert os.listdir(tmp_path) == ["model_1.pt"]
    assert (tmp_path / "model_1.pt").read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_planted_temporary_file_is_neither_written_through_nor_removed(tmp_path, monkeypatch, kind):
    victim, planted = tmp_path / "victim", tmp_path / temporary.temporary_name("model_1.pt")
    victim.write_bytes(b"precious")
    if kind == "link":
        planted.symlink_to(victim)
    else:
        planted.write_bytes(b"planted")
    token = planted.name.removesuffix(temporary.SUFFIX)[-8:]
    monkeypatch.setattr(secrets, "token_hex", lambda _: token)
    with pytest.raises(StorageError) as caught:
        publish(tmp_path / "model_1.pt", writes(b"new"), 3)
    assert caught.value.errno == errno.EEXIST
    assert str(tmp_path / "model_1.pt") in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == sorted([victim.name, planted.name])
    assert victim.read_bytes() == b"precious"
    monkeypatch.undo()
    publish(tmp_path / "model_1.pt", writes(b"new"), 3)
    assert (tmp_path / "model_1.pt").read_bytes() == b"new"
    assert planted.read_bytes() == (b"precious" if kind == "link" else b"planted")


def test_two_savers_that_race_for_one_name_leave_one_whole_file(tmp_path):
    contents = [bytes([letter]) * 300_000 for letter in b"ab"]
    start = threading.Barrier(2)

    def save(content: bytes) -> None:
        start.wait()
        for _ in range(100):
            publish(tmp_path / "model_1.pt", writes(content), len(content))

    savers = [threading.Thread(target=save, args=(content,)) for content in contents]
    for saver in savers:
        saver.start()
    seen = []
    while any(saver.is_alive() for saver in savers):
        with contextlib.suppress(FileNotFoundError):
            seen.append((tmp_path / "model_1.pt").read_bytes())
    for saver in savers:
        saver.join()
    assert os.listdir(tmp_path) == ["model_1.pt"]
    assert {*seen, (tmp_path / "model_1.pt").read_bytes()} <= set(contents)


def test_an_interrupt_in_mid_write_leaves_the_old_file_and_no_litter(tmp_path):
    publish(tmp_path / "model_1.pt", writes(b"old"), 3)

    def write(target: Target) -> None:
        target.put(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "model_1.pt", write, 2)
    assert os.listdir(tmp_path) == ["model_1.pt"]
    assert (tmp_path / "model_1.pt").read_bytes() == b"old"


@pytest.mark.parametrize("length", [1, 100, 200, 251, 255])
@pytest.mark.parametrize("letter", ["m", "\u00e9", "\udcff"])
def test_a_file_is_published_under_any_name_that_a_file_system_takes(tmp_path, length, letter):
    name = os.fsdecode((os.fsencode(letter) * 255)[:length])
    publish(tmp_path / name, writes(b"whole"), 3)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"whole"


@given(name=FILE_NAMES)
def test_a_temporary_name_fits_a_directory_is_known_as_one_and_never_reads_as_a_checkpoint(name):
    target = os.fsdecode(name)
    made = temporary.temporary_name(target)
    assert len(os.fsencode(made)) <= 255
    assert made.startswith(".")
    assert temporary.is_temporary(made)
    assert naming.parse_any(made, "pt") is None
    assert not naming.has_extension(made, "pt")


@pytest.mark.parametrize("host", ["node7", "ho.st\u00e4-1", "", "x" * 64])
def test_a_temporary_name_tells_target_host_and_process(monkeypatch, host):
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    made = temporary.temporary_name("model_7.pt")
    assert made.startswith(".model_7.pt.")
    shown, pid, token = made.removeprefix(".model_7.pt.").removesuffix(temporary.SUFFIX).split(".")
    assert shown == {"ho.st\u00e4-1": "ho-st--1", "": "localhost"}.get(host, host)
    assert pid == str(os.getpid())
    assert len(token) == 8
    assert temporary.is_temporary(made)


@pytest.mark.parametrize(
    "name",
    [
        "model_1.pt", "model_1.pt.tmp", "notes.marlin-tmp", ".marlin-tmp",
        "model_1.pt.host.1.00000000.marlin-tmp",
        ".model_1.pt.host.1.00000000.marlin-tmp\n", ".model_1.pt.host.1.00000000.marlin-tmp.pt",
        ".model_1.pt.host.\u0661.00000000.marlin-tmp", ".model_1.pt.host.1.0000000.marlin-tmp",
    ],
)  # fmt: skip
def test_a_file_of_the_users_is_not_taken_for_a_temporary_one(name):
    assert not temporary.is_temporary(name)


def test_a_temporary_file_is_abandoned_once_its_writer_was_killed_and_not_before(
    tmp_path, directory_fd, writer
):
    (name,) = os.listdir(tmp_path)
    assert not temporary.is_abandoned(directory_fd, name)
    kill(writer)
    assert temporary.is_abandoned(directory_fd, name)


def test_a_temporary_file_is_abandoned_by_its_lock_even_where_its_process_id_is_used_again(
    tmp_path, directory_fd
):
    name = temporary.temporary_name("model_1.pt")  # carries the id of this process, which lives
    (tmp_path / name).write_bytes(b"half")
    assert temporary.is_abandoned(directory_fd, name)


@pytest.fixture
def no_locks(monkeypatch):
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_without_locks_a_temporary_file_is_abandoned_when_its_process_on_this_host_is_gone(
    tmp_path, directory_fd, writer, no_locks
):
    (name,) = os.listdir(tmp_path)
    assert f".{writer.pid}." in name
    assert not temporary.is_abandoned(directory_fd, name)
    kill(writer)
    assert temporary.is_abandoned(directory_fd, name)


def test_without_locks_a_temporary_file_of_another_host_is_never_abandoned(
    tmp_path, directory_fd, writer, no_locks, monkeypatch
):
    (name,) = os.listdir(tmp_path)
    kill(writer)
    monkeypatch.setattr(socket, "gethostname", lambda: "another-host")
    assert not temporary.is_abandoned(directory_fd, name)


@pytest.mark.parametrize("pid", ["1", str(2**31 - 1), str(10**30)])
def test_without_locks_only_a_process_that_is_surely_gone_abandons_its_file(
    tmp_path, directory_fd, no_locks, pid
):
    name = temporary.temporary_name("model_1.pt").replace(f".{os.getpid()}.", f".{pid}.")
    (tmp_path / name).write_bytes(b"half")
    # Linux gives no id above 2**22; one that does not fit a C int is none that we wrote.
    assert temporary.is_abandoned(directory_fd, name) == (pid == str(2**31 - 1))


def test_a_file_is_published_where_the_file_system_has_no_locks(tmp_path, no_locks):
    publish(tmp_path / "model_1.pt", writes(b"new"), 3)
    assert os.listdir(tmp_path) == ["model_1.pt"]
    assert (tmp_path / "model_1.pt").read_bytes() == b"new"


def test_a_directory_is_made_with_its_parents_and_made_again_without_complaint(tmp_path):
    for _ in range(2):
        make_directory(tmp_path / "a" / "b" / "c")
        assert (tmp_path / "a" / "b" / "c").is_dir()


@pytest.mark.parametrize("where", ["file", "file/below", "nowhere"])
def test_a_file_or_a_broken_link_in_the_way_of_a_directory_is_named(tmp_path, where):
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    with pytest.raises(StorageError) as caught:
        make_directory(tmp_path / where)
    assert caught.value.errno == errno.ENOTDIR
    assert str(tmp_path / where) in str(caught.value)
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert sorted(os.listdir(tmp_path)) == ["file", "nowhere"]


def test_what_others_wrote_is_made_durable_with_its_name(tmp_path, monkeypatch):
    (tmp_path / "run" / "step").mkdir(parents=True)
    (tmp_path / "run" / "step" / "a.pt").write_bytes(b"a")
    synced = []
    monkeypatch.setattr(publishing, "sync_directory", synced.append)
    monkeypatch.chdir(tmp_path / "run" / "step")
    for path, expected in (
        (tmp_path / "run/step/a.pt", [tmp_path / "run/step"]),
        (tmp_path / "run/step", [tmp_path / "run", tmp_path / "run/step"]),
        ("a.pt", [os.curdir]),
    ):
        synced.clear()
        publishing.make_durable(str(path))
        assert sorted(synced) == list(map(str, expected))
