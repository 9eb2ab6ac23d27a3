"""Lets each command and `load` loose on hostile files, watched; a line of JSON for each call.

python hostile_worker.py LIST START CONFIG ONE_IN CALL...

LIST is what hostile_files.py prints, START the number of the file to start with, or NUMBER:CALL for what
follows one of its calls, CONFIG the file for `train`, and CALL what is to be let loose: the calls take
turns with the files so that each is made with one in ONE_IN.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import gc
import importlib
import inspect
import io
import json
import os
import pkgutil
import resource
import shutil
import signal
import sys
import threading
import time
import typing
from typing import Any

import torch

import marlin_ckpt.formats
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments, MarlinError
from marlin_ckpt.cli.main import main
from marlin_ckpt.naming import OWN_DIRECTORY

LONGEST_S = 60  # ends a call that hangs, and with it this process
PIECES, PIECES_S = 150_000, 0.1  # of work, and the seconds of a quiet processor that they take
MOST_BYTES = 8 << 30  # of address space: a bomb must fail here and not take the machine with it
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = (
    "os.", "subprocess.", "socket.", "shutil.", "pty.", "ctypes.dlopen", "webbrowser.", "urllib.", "http.",
    "exec", "compile", "import", "pickle.find_class", "marshal.", "code.__new__", "function.__new__",
    "sys.settrace", "sys.setprofile", "builtins.", "cpython.run", "signal.",
)  # fmt: skip
ANNOTATIONS = (inspect.__file__, typing.__file__)
HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk", "builtins.id", "socket.gethostname")
OUTPUTS = ("exported.safetensors", "averaged.pt")  # what two of the calls are to write
IN_OUR_FOLDER = ("os.mkdir", "open", "os.rename", "os.remove")
OUR_FILES = ("lease.", "notes.", ".lease.json.", ".notes.json.")  # named alone where the folder is open
REPORT = os.dup(1)

events: list[str] = []
armed = threading.Event()


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not armed.is_set() or event in HARMLESS:
        return
    if event in ("compile", "exec") and sys._getframe(1).f_code.co_filename in ANNOTATIONS:
        return  # Typer evaluates the annotations of the commands
    name = str(arguments[0]) if arguments else ""
    if event in IN_OUR_FOLDER and (name.startswith(OUR_FILES) or OWN_DIRECTORY in name.split(os.sep)):
        return
    if is_output(arguments):
        return
    if event == "open" and isinstance(arguments[0], int):
        return  # a file object for a descriptor, whose own opening was seen
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
    if writes or event.startswith(FORBIDDEN):
        events.append(f"{event} {arguments!r}"[:200])


def is_output(arguments: tuple[Any, ...]) -> bool:
    """Whether an event is about a file that a call is to write, or its temporary one."""
    names = [os.path.basename(one).removeprefix(".") for one in arguments if isinstance(one, str)]
    return any(name.startswith(OUTPUTS) for name in names)


def memory(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key + ":"))


def tell(**values: object) -> None:
    os.write(REPORT, json.dumps(values).encode() + b"\n")


def load(path: str) -> int:
    directory, name = os.path.split(path)
    arguments = DefaultCheckpointerArguments(load_dir=directory, load_filename=name, log_level="CRITICAL")
    try:
        DefaultCheckpointer(arguments).load()
    except MarlinError as error:
        sys.stderr.write(f"{type(error).__name__}\n")
        return error.exit_code
    return 0


def calls(path: str, config: str) -> dict[str, list[str]]:
    directory = os.path.dirname(path)
    train = [
        "train",
        "--config",
        config,
        "--resume",
        "--quiet",
        "--set",
        f"checkpointer.save_dir={directory}",
    ]
    return {
        "list": ["list", directory],
        "list --json": ["list", directory, "--json"],
        "latest": ["latest", directory],
        "latest --intact": ["latest", directory, "--intact"],
        "verify": ["verify", path],
        "verify --json": ["verify", path, "--json"],
        "clean": ["clean", directory, "--dry-run"],
        "load": [],
        "show": ["show", path],
        "show --json": ["show", path, "--json", "--stats", "*"],
        "show --stats": ["show", path, "--stats", "*"],
        "show --tensors": ["show", path, "--tensors", "*", "--sort", "size"],
        "show --depth": ["show", path, "--depth", "1000", "--sort", "name"],
        "diff": ["diff", path, path, "--all"],
        "export": ["export", path, "-o", OUTPUTS[0], "--force"],
        "average": ["average", path, path, "-o", OUTPUTS[1], "--force"],
        "train": train,
    }


def run(path: str, arguments: list[str]) -> tuple[int | str, bytes, bytes]:
    """Makes one call with the hook armed; what it printed comes back with its exit code."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    code: int | str
    armed.set()
    try:
        code = main(arguments) if arguments else load(path)
    except BaseException as error:  # noqa: BLE001 - whatever gets out is what this looks for
        code = f"{type(error).__name__}: {error}"[:200]
    finally:
        armed.clear()
        sys.stdout, sys.stderr = kept
    out.flush(), err.flush()
    return code, out.buffer.getvalue(), err.buffer.getvalue()


def slowness() -> float:
    """How much longer than usual the processor takes at present, which others' work may slow down."""
    began = time.process_time()
    pieces = [{"number": number, "text": str(number)} for number in range(PIECES)]
    assert sum(len(piece["text"]) for piece in pieces)
    return max(1.0, (time.process_time() - began) / PIECES_S)


def measure(number: int, one: dict[str, Any], name: str, arguments: list[str], libc: ctypes.CDLL) -> None:
    tell(begins=number, call=name)
    gc.collect()  # quick, since what was there after the warming up is frozen
    libc.malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew: proc(5)
    before = memory("VmRSS")
    events.clear()
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    busy = time.process_time()
    code, out, err = run(one["path"], arguments)
    busy = time.process_time() - busy
    signal.setitimer(signal.ITIMER_REAL, 0)
    busy = busy if busy < 1 else busy / slowness()
    for output in OUTPUTS:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(output)
    tell(
        number=number, call=name, code=code, busy=busy, grown=memory("VmHWM") - before,
        events=list(events), out=out.decode("utf-8", "surrogateescape")[:5000], err=err.decode()[:5000],
    )  # fmt: skip


def warm_up(config: str, chosen: list[str]) -> None:
    """Imports all that the chosen calls import, so that an import later on is a file's doing."""
    os.mkdir("warm")
    arguments = DefaultCheckpointerArguments(save_dir="warm", model_state_save_dir=None)
    state = Checkpoint({"weight": torch.ones(3)}, {}, {})
    paths = [str(DefaultCheckpointer(arguments).save(state, 1)), "warm/torn_1.pt", "warm/unsafe_1.pt"]
    with open(paths[0], "rb") as whole, open(paths[1], "wb") as torn:
        torn.write(whole.read().replace(torch.ones(3).numpy().tobytes(), bytes(12)))
    torch.save(state, paths[2])
    torch.save({"epoch": 1}, "warm/legacy_1.pt", _use_new_zipfile_serialization=False)
    torch.save(state, "warm/unsafelegacy_1.pt", _use_new_zipfile_serialization=False)
    for path in [*paths, "warm/legacy_1.pt", "warm/unsafelegacy_1.pt"]:
        for name, arguments in calls(os.path.abspath(path), config).items():
            if name in chosen:
                run(os.path.abspath(path), arguments)
    # What we import of each format, and where no name is ours, no checkpoint is good or one can be salvaged;
    # torch when a tensor is compared or printed; Python when a control is escaped or a pickle of an old
    # protocol has bytes.
    ours = (
        "directory.others.kinds", "directory.others.left_out", "grammars", "operations.rescue.shards",
        "storage.reading.past_cache",
    )  # fmt: skip
    formats = (
        one.name for one in pkgutil.walk_packages(marlin_ckpt.formats.__path__, "marlin_ckpt.formats.")
    )
    for module in (*(f"marlin_ckpt.{one}" for one in ours), *formats, "shlex", "unicodedata"):
        importlib.import_module(module)
    assert repr(torch.ones(2))
    with contextlib.suppress(ImportError):
        importlib.import_module("torch.nested._internal.ops")
    for codec in ("unicode_escape", "latin_1"):
        codecs.lookup(codec)
    shutil.rmtree("warm")


def control() -> None:
    """Lets a pickle run, harmlessly, where loading is not limited to weights: the hook must see it."""
    path = os.path.abspath("control.pt")

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("true",)

    torch.save({"a": Runs()}, path)
    events.clear()
    armed.set()
    torch.load(path, weights_only=False)
    armed.clear()
    os.unlink(path)
    tell(control=list(events))


def work() -> None:
    listing, where, config, one_in, *chosen = sys.argv[1:]
    start, _, after = where.partition(":")
    with open(listing) as file:
        hostile = json.load(file)
    warm_up(config, chosen)
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    sys.addaudithook(watch)
    control()
    for number, one in enumerate(hostile[int(start) :], int(start)):
        for name, arguments in calls(one["path"], config).items():
            is_chosen = name in chosen and (number + chosen.index(name)) % int(one_in) == 0
            if not after and is_chosen and (name != "train" or one["trained"]):
                measure(number, one, name, arguments, libc)
            after = "" if name == after else after


if __name__ == "__main__":
    work()
