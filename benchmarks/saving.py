"""Times saves, each until the file and its directory are synced."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import peers
from benchmarks.files import buffer, empty, in_blocks, write_by_two, write_raw, write_through_cache
from benchmarks.interleaved import Call, Timing, medians
from benchmarks.memory import grown_mib, kib
from benchmarks.report import Row, Setting
from benchmarks.states import many_tensors, size_bytes, size_text, training
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.storage.local.mounts import wait_until_given_back

_TORCH_SAVE = "torch.save + fsync"
_RAW_MIB = (8, 64)  # in one write; the better one is the limit
_RAW = "raw write"
# What a save needs at least, from memory that is in no cache, and from some that stays there.
_COLD, _COLD_MIB = "raw O_DIRECT write from where it is stored", 4
_HOT, _HOT_MIB = "raw O_DIRECT write of one buffer", 4
_STATISTICS = "with statistics of its tensors"
_MEMORY_MIB = 64  # that a save may take beyond the state
_MEMORY_FILE_SYSTEM = Path("/dev/shm")


def ours(checkpoint: Checkpoint, directory: Path, *, statistics: bool = False) -> Call:
    """Our save of a state."""
    arguments = DefaultCheckpointerArguments(
        save_dir=str(directory), model_state_save_dir=None, statistics=statistics
    )
    checkpointer = DefaultCheckpointer(arguments)
    return lambda: checkpointer.save(checkpoint, 0)


def _beside_torch(
    setting: Setting,
    checkpoint: Checkpoint,
    rounds: int,
    others: Mapping[str, Call] | None = None,
    *,
    warm_up: bool = True,
) -> dict[str, Timing]:
    directory = setting.directory
    calls: dict[str, Call] = {
        "ours": ours(checkpoint, directory),
        _TORCH_SAVE: lambda: peers.torch_save(checkpoint, directory / "torch.pt"),
        **(others or {}),
    }
    return medians(calls, rounds, lambda: empty(directory), warm_up=warm_up)


def _row(group: str, what: str, timings: dict[str, Timing], rounds: int, bound: float) -> Row:
    return Row(group, what, _TORCH_SAVE, timings["ours"].wall_s, timings[_TORCH_SAVE].wall_s, rounds, bound)


def beside_the_disk(setting: Setting) -> list[Row]:
    """The medium state beside the disk's own speed and those whom we are held against."""
    directory, checkpoint = setting.directory, training(setting.sizes.medium).checkpoint()
    savers = {_TORCH_SAVE: peers.torch_save, **peers.found(directory, setting.leave_out, with_bound=True)}
    raw = _raw(setting, size_bytes(checkpoint))
    raw |= _raw_by_two(setting, size_bytes(checkpoint)) if raw else {}
    with_statistics = {_STATISTICS: ours(checkpoint, directory, statistics=True)}
    timings = _timed(setting, checkpoint, savers, raw | with_statistics)
    if not timings:
        return []
    what = f"save {size_text(size_bytes(checkpoint))}"
    mine, torch_save = timings["ours"], timings[_TORCH_SAVE]
    rows = []
    if raw:
        limit = min(timings[name].wall_s for name in raw if name not in (_COLD, _HOT))
        limits = {"raw O_DIRECT write": (limit, 1.1)}
        limits |= {name: (timings[name].wall_s, most) for name, most in ((_COLD, 0.85), (_HOT, 1.05))}
        rows = [
            Row("save", what, name, mine.wall_s, its, setting.rounds, most, limit=True)
            for name, (its, most) in limits.items()
        ]
    bounds = {_TORCH_SAVE: 0.35, **peers.BOUNDS}
    rows += [
        Row("save", what, name, mine.wall_s, timings[name].wall_s, setting.rounds, bounds[name])
        for name in savers
    ]
    figured = timings[_STATISTICS]
    rows.append(
        Row("save", f"{what} {_STATISTICS}", "ours", figured.wall_s, mine.wall_s, setting.rounds, 1.3)
    )
    cpu = Row(
        "save cpu", f"{what}, processor time", _TORCH_SAVE, mine.cpu_s, torch_save.cpu_s, setting.rounds, 0.3
    )
    return [*rows, cpu]


def beside_others(setting: Setting) -> list[Row]:
    """The same beside the other packages, and last, since they leave threads and memory behind."""
    directory, checkpoint = setting.directory, training(setting.sizes.medium).checkpoint()
    savers = peers.found(directory, setting.leave_out, with_bound=False)
    timings = _timed(setting, checkpoint, savers, {}) if savers else {}
    what = f"save {size_text(size_bytes(checkpoint))}"
    return [
        Row("save others", what, name, timings["ours"].wall_s, timings[name].wall_s, setting.rounds, None)
        for name in timings
        if name != "ours"
    ]


def _timed(
    setting: Setting, checkpoint: Checkpoint, savers: Mapping[str, peers.Save], others: Mapping[str, Call]
) -> dict[str, Timing]:
    if not has_room(setting, size_bytes(checkpoint)):
        return {}
    directory = setting.directory
    calls = {"ours": ours(checkpoint, directory), **others}
    calls |= {name: partial(save, checkpoint, directory / "peer") for name, save in savers.items()}
    return medians(calls, setting.rounds, lambda: empty(directory))


def _raw(setting: Setting, size: int) -> dict[str, Call]:
    path, memory = setting.directory / "raw", {mib: buffer(mib << 20) for mib in _RAW_MIB}
    try:
        write_raw(path, memory[_RAW_MIB[0]], 4096)
    except OSError:
        setting.leave_out("the raw write is left out, since this file system has no O_DIRECT")
        return {}
    return {f"raw {mib}": partial(write_raw, path, memory[mib], size) for mib in _RAW_MIB}


def _raw_by_two(setting: Setting, size: int) -> dict[str, Call]:
    path, cold, hot = (
        setting.directory / "raw",
        buffer(in_blocks(size), is_huge=False),
        buffer(_HOT_MIB << 20),
    )
    return {
        _COLD: partial(write_by_two, path, cold, size, _COLD_MIB << 20),
        _HOT: partial(write_by_two, path, hot, size, _HOT_MIB << 20),
    }


def over_another(setting: Setting) -> list[Row]:
    """The medium state in the place of a file of its size, whose space is given back."""
    checkpoint = training(setting.sizes.medium).checkpoint()
    if not has_room(setting, 2 * size_bytes(checkpoint)):
        return []
    new, old = (setting.directory / name for name in ("new", "old"))
    new.mkdir()
    old.mkdir()
    calls = {"new": ours(checkpoint, new), "old": ours(checkpoint, old)}

    def before() -> None:
        wait_until_given_back()
        empty(new)

    timings = medians(calls, setting.rounds, before)
    what = f"save {size_text(size_bytes(checkpoint))} in the place of a file of its size"
    times = timings["old"].wall_s, timings["new"].wall_s
    return [Row("over", what, "ours, where there is none", *times, setting.rounds, 1.15)]


def in_memory(setting: Setting) -> list[Row]:
    """The medium state to a file system that is memory."""
    if not _MEMORY_FILE_SYSTEM.is_dir():
        setting.leave_out("saving to tmpfs is left out, since there is no /dev/shm")
        return []
    checkpoint = training(setting.sizes.medium).checkpoint()
    with tempfile.TemporaryDirectory(dir=_MEMORY_FILE_SYSTEM) as folder:
        setting = replace(setting, directory=Path(folder))
        if not has_room(setting, size_bytes(checkpoint)):
            return []
        size, memory = size_bytes(checkpoint), buffer(_HOT_MIB << 20)
        raw = {_RAW: partial(write_through_cache, setting.directory / "raw", memory, size)}
        timings = _beside_torch(setting, checkpoint, setting.rounds, raw)
    what = f"save {size_text(size)} to tmpfs"
    times = timings["ours"].wall_s, timings[_RAW].wall_s
    limit = Row("tmpfs", what, _RAW, *times, setting.rounds, 1.1, limit=True)
    return [limit, _row("tmpfs", what, timings, setting.rounds, 0.45)]


def small(setting: Setting) -> list[Row]:
    """A state where the fixed costs of a save count."""
    rounds, checkpoint = setting.rounds * 8, training(setting.sizes.small).checkpoint()
    timings = _beside_torch(setting, checkpoint, rounds)
    return [_row("small", f"save {size_text(size_bytes(checkpoint))}", timings, rounds, 0.6)]


def many(setting: Setting) -> list[Row]:
    """A state of so many tensors that pickling counts."""
    rounds, count = setting.rounds * 4, setting.sizes.tensors
    timings = _beside_torch(setting, many_tensors(count), rounds)
    return [_row("many", f"save {count:,} tensors of 3 KB", timings, rounds, 0.6)]


def large(setting: Setting) -> list[Row]:
    """A state of more than 4 GiB, and the memory that saving it takes."""
    checkpoint = training(setting.sizes.large).checkpoint()
    size = size_bytes(checkpoint)
    if not has_room(setting, size):
        return []
    # Once through it takes as long as all the rest together, and there is little to warm.
    timings = _beside_torch(setting, checkpoint, setting.rounds, warm_up=False)
    what = f"save {size_text(size)}"
    rows = [_row("large", what, timings, setting.rounds, 0.35)]
    empty(setting.directory)
    call = ours(checkpoint, setting.directory)
    peaks = [peak for _ in range(setting.rounds) if (peak := grown_mib(call)) is not None]
    if not peaks:
        setting.leave_out("a save's memory is left out, since this kernel does not forget its peak")
        return rows
    limit = f"the limit of {_MEMORY_MIB} MiB"
    return [
        *rows,
        Row("memory", f"{what}, memory beside it", limit, max(peaks), _MEMORY_MIB, len(peaks), 1, "MiB"),
    ]


def has_room(setting: Setting, size: int) -> bool:
    """Whether the disk, and the memory that caches it, take one file of this size more."""
    memory = kib("/proc/meminfo", "MemAvailable") * 1024
    if min(memory, shutil.disk_usage(setting.directory).free) > size * 1.2:
        return True
    setting.leave_out(f"a save of {size_text(size)} is left out, since there is no room for it")
    return False
