"""Someone plants links, FIFOs and directories where we work, or swaps the directory, between two calls."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import random
import secrets
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments, MarlinError
from marlin_ckpt.directory import removing
from marlin_ckpt.storage.local import descent, files, publishing, store, system_calls, temporary, trees

FINAL, OTHER = "model_1.pt", "model_2.pt"
DEAD = ".model_1.pt.elsewhere.1.0123abcd.marlin-tmp"
HARMFUL = ["link", "link to nothing", "link to a directory", "hard link", "directory", "file"]
REMOVING = {"open", "fstat", "scandir", "stat", "unlink", "close"}
CALLS = {*REMOVING, "dup", "flock", "write", "fsync", "link", "rename"}


def fill(directory: Path) -> None:
    (directory / "sub").mkdir(parents=True)
    for name in (FINAL, OTHER, DEAD, f"sub/{FINAL}", f"sub/{DEAD}"):
        (directory / name).write_bytes(f"precious {name}".encode())


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Adversary:
    """Stands between the library and the system; before a call it may plant something or swap the directory.

    It may do all that someone who may write to the directory and its parent can do; what is `outside` it
    never touches but with links. With `weakness` it also takes one of our protections away: "flags" are
    O_EXCL and O_NOFOLLOW, "dir_fd" is that names are looked up in an open directory.
    """

    def __init__(self, base: Path, seed: str, weakness: str = "", kinds: tuple[str, ...] = ("FIFO",)) -> None:
        self.directory, self.outside = base / "inside", base / "outside"
        self.struck: set[str] = set()
        self._aside = base / "aside"
        self._chance = random.Random(seed)
        self._weakness = weakness
        self._kinds = [*HARMFUL, *kinds]
        self._tokens = 0
        self._paths: dict[int, str] = {}
        fill(self.outside)
        for path in [self.outside, *self.outside.rglob("*")]:
            os.utime(path, (1, 1))  # else a change in the same tick of the clock would not show
        self._before = self._snapshot()

    def begin(self) -> None:
        """Makes everything as it was, for another round."""
        self.put_back()
        shutil.rmtree(self.directory, ignore_errors=True)
        fill(self.directory)
        self._eagerness = self._chance.choice([0.03, 0.1, 0.3])
        self.strike("")

    def harm(self) -> str:
        """What is not as it was outside the directory."""
        now = self._snapshot()
        return ", ".join(
            f"{name}: {self._before.get(name)} became {now.get(name)}"
            for name in sorted(self._before.keys() | now.keys())
            if self._before.get(name) != now.get(name)
        )

    def _snapshot(self) -> dict[str, tuple]:
        found = {}
        for path in [self.outside, *self.outside.rglob("*")]:
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(self.outside))] = (
                status.st_ino,
                status.st_mode,
                status.st_uid,
                status.st_mtime_ns,
                content,
            )
        return found

    def token(self, _: int) -> str:
        self._tokens += 1
        return f"{self._tokens:08x}"

    def put_back(self) -> None:
        if self._aside.exists():
            self.directory.unlink()
            self._aside.rename(self.directory)

    def strike(self, before: str) -> None:
        self.struck.add(before)
        if self._chance.random() < 0.7:
            self._plant()
        elif self._aside.exists():
            self.put_back()
        else:
            self.directory.rename(self._aside)
            self.directory.symlink_to(self._chance.choice([self.outside, "outside"]))

    def _plant(self) -> None:
        real = self._aside if self._aside.exists() else self.directory
        next_temporary = temporary.temporary_name(FINAL)  # the one that the next save will choose
        self._tokens -= 1
        there = [name for name in sorted(os.listdir(real)) if temporary.is_temporary(name)]
        name = self._chance.choice([FINAL, FINAL, OTHER, "sub", f"sub/{FINAL}", next_temporary, *there])
        path, outside = real / name, self.outside / name
        if path.parent.is_symlink() or not path.parent.is_dir():
            return
        remove(path)
        target = outside if outside.is_file() else self.outside / FINAL
        match self._chance.choice(self._kinds):
            case "link":
                path.symlink_to(target)
            case "link to nothing":
                path.symlink_to(self.outside / "made")
            case "link to a directory":
                path.symlink_to(self.outside / "sub")
            case "hard link":
                path.hardlink_to(target)
            case "directory":
                path.mkdir()
            case "file":
                path.write_bytes(b"planted")
            case "FIFO":
                os.mkfifo(path)

    def __call__(self, name: str, real: Callable, *args, **kwargs):
        """Stands for one system call."""
        if self._chance.random() < self._eagerness:
            self.strike(name)
        if name == "open" and args[0] == str(self.directory) and not args[1] & os.O_NOFOLLOW:
            # A save goes where its directory leads when it opens it, be it through a user's own link.
            self.put_back()
        if name == "fsync":
            if self._chance.random() < 0.1:  # so that saves are undone too
                raise OSError(errno.EIO, "injected")
            return None
        if name == "open" and self._weakness == "flags":
            args = (args[0], args[1] & ~(os.O_EXCL | os.O_NOFOLLOW), *args[2:])
        fds = [fd for one in ("dir_fd", "src_dir_fd", "dst_dir_fd") if (fd := kwargs.get(one)) is not None]
        paths = [os.path.join(self._paths[fd], one) for fd, one in zip(fds, args, strict=False)]
        if self._weakness == "dir_fd":
            args = (*paths, *args[len(paths) :])
            kwargs = {option: value for option, value in kwargs.items() if not option.endswith("dir_fd")}
        result = real(*args, **kwargs)
        if name == "open":
            self._paths[result] = (paths or args)[0]
        elif name == "dup":
            self._paths[result] = self._paths[args[0]]
        return result


class Seam:
    """Stands for `os` or `fcntl` in a module of ours, and hands each system call to an adversary."""

    def __init__(self, module, adversary: Adversary) -> None:
        self._module = module
        self._adversary = adversary

    def __getattr__(self, name: str):
        real = getattr(self._module, name)
        return functools.partial(self._adversary, name, real) if name in CALLS else real


@pytest.fixture
def attack(monkeypatch, tmp_path):
    """Repeats an operation under an adversary's hands, until it does harm outside; tells what and who."""

    def repeat(operation: Callable, rounds: int, **options) -> tuple[str, Adversary]:
        adversary = Adversary(tmp_path, operation.__name__, **options)
        monkeypatch.setattr(secrets, "token_hex", adversary.token)
        for module in (files, publishing, system_calls, temporary, store, trees, descent):
            monkeypatch.setattr(module, "os", Seam(os, adversary))
        monkeypatch.setattr(temporary, "fcntl", Seam(fcntl, adversary))
        for number in range(rounds):
            adversary.begin()
            with contextlib.suppress(MarlinError):
                operation(adversary.directory)
            if harm := adversary.harm():
                return f"round {number}: {harm}", adversary
        return "", adversary

    def give_up(*_):
        raise TimeoutError("waits, for the other end of a FIFO perhaps")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(900)
    yield repeat
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


CHECKPOINT = Checkpoint({"weight": torch.ones(3)}, {}, {})


def checkpointer(directory: Path, **fields) -> DefaultCheckpointer:
    return DefaultCheckpointer(
        DefaultCheckpointerArguments(save_dir=directory, load_dir=directory, log_level="CRITICAL", **fields)
    )


def save(directory: Path) -> None:
    checkpointer(directory).save(CHECKPOINT, 1)


def load(directory: Path) -> None:
    checkpointer(directory).load()


def clean(directory: Path) -> None:
    removing.carry_out(removing.plan_cleaning(directory, recursive=True))


def sweep(directory: Path) -> None:
    removing.carry_out(removing.plan_sweeping(directory))


def delete_existing(directory: Path) -> None:
    checkpointer(directory, delete_existing_checkpoints=True)


def publish(directory: Path) -> None:
    publishing.publish(directory / FINAL, lambda target: target.put(b"new"), 3)


def plain_save(directory: Path) -> None:
    torch.save(CHECKPOINT.payload(), directory / FINAL)


@pytest.mark.parametrize(
    ("operation", "calls"),
    [
        (save, CALLS),
        (load, {"open", "fstat", "scandir", "close"}),
        (clean, REMOVING | {"flock"}),
        (sweep, REMOVING | {"flock"}),
        (delete_existing, REMOVING),
    ],
)
def test_whatever_is_planted_or_swapped_between_two_calls_nothing_outside_is_written_or_removed(
    attack, cases, operation, calls
):
    harm, adversary = attack(operation, cases(200, 4000))
    assert harm == ""
    assert adversary.struck >= calls


@pytest.mark.parametrize("weakness", ["flags", "dir_fd"])
@pytest.mark.parametrize("operation", [publish, clean, sweep, delete_existing])
def test_without_one_protection_the_same_attack_reaches_outside(attack, operation, weakness):
    harm, _ = attack(operation, 4000, weakness=weakness)
    assert harm


def test_the_same_attack_on_a_plain_torch_save_reaches_outside(attack):
    # Without FIFOs, which it would wait on for ever.
    harm, _ = attack(plain_save, 1000, kinds=())
    assert "precious" in harm


def test_a_save_through_a_users_own_link_goes_where_it_leads_and_touches_only_its_own_name(tmp_path):
    fill(tmp_path / "real")
    os.link(tmp_path / "real" / FINAL, tmp_path / "best.pt")
    (tmp_path / "link").symlink_to("real")
    kept = {name: (tmp_path / "real" / name).read_bytes() for name in (OTHER, f"sub/{FINAL}", f"sub/{DEAD}")}
    save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert {name: (tmp_path / "real" / name).read_bytes() for name in kept} == kept
    assert (tmp_path / "best.pt").read_bytes() == f"precious {FINAL}".encode()
    loaded = checkpointer(tmp_path / "real", load_filename=FINAL).load()
    assert torch.equal(loaded.module_interface_state["weight"], torch.ones(3))
