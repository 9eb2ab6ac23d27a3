"""What the ranks of tests/unit/distributed/test_gathering.py do."""

from __future__ import annotations

import ctypes
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import marlin_ckpt
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.distributed.gathering import with_all_ranks, write_gathered
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats.torch import writer
from tests.support.loading_ranks import differences, made, manifest, memory_mb, stepped, whole

_M_MMAP_THRESHOLD = -3  # mallopt(3)


def write_and_load(place: str, kinds: list[str]) -> dict[str, list[str]]:
    """Writes files of sharded states, and loads them into others: what differs then."""
    ranks, found = Ranks(), {}
    for kind in kinds:
        net = made(kind, seed=1)
        optimizer = stepped(net)
        own = {str(ranks.rank): torch.full((2,), ranks.rank)}
        trainer = {"optimizer": optimizer.state_dict(), "ranks": own}
        state = Checkpoint(net.state_dict(), trainer, {"scale": 1.0}).payload()
        path = Path(place) / f"{kind}_3.pt"
        written = write_gathered(path, with_all_ranks(state, ranks), manifest(), ranks, has_statistics=True)
        expected = whole(state)
        expected["trainer_state"]["ranks"] = {
            str(rank): torch.full((2,), rank) for rank in range(ranks.world_size)
        }
        loaded = torch.load(path)
        found[f"{kind} file"] = (
            differences(loaded, expected) + [written.size_bytes == path.stat().st_size][1:]
        )
        again, module = made(kind, seed=2), loaded["module_interface_state"]
        found[f"{kind} tied"] = [
            name for name in ("inner.weight", "again.weight")
            if module[name].data_ptr() != module["inner.weight"].data_ptr()
        ]  # fmt: skip
        optimizers = [torch.optim.AdamW(again.parameters()), stepped(again)]
        for number, one in enumerate(optimizers):
            into = Checkpoint(again, {"optimizer": one})
            args = DefaultCheckpointerArguments(
                checkpoint=False, load_dir=place, file_prefix=kind, save_dir=place
            )
            DefaultCheckpointer(args).load(into)
            state = {"net": whole(again.state_dict()), "optimizer": whole(one.state_dict())}
            was = {"net": module, "optimizer": loaded["trainer_state"]["optimizer"]}
            found[f"{kind} load {number}"] = differences(state, was)
    return found


def fail(place: str) -> list[str]:
    """Rank 0 cannot write: what each raises; then all save together."""
    ranks, found = Ranks(), []
    state = {"net": made("rows", seed=1).state_dict()}

    def full(*_: object, **__: object) -> None:
        raise MarlinError("no space left", "x")

    for broken in (writer.write_state, None):
        with mock.patch.object(writer, "write_state", full if broken else writer.write_state):
            try:
                written = write_gathered(Path(place) / "a_1.pt", state, manifest(), ranks)
                found.append(str(written.size_bytes == (Path(place) / "a_1.pt").stat().st_size))
            except MarlinError as error:
                found.append(f"{type(error).__name__}: {error}")
    return found


def lacking(place: str) -> list[str]:
    """States of which rank 0 lacks something: what is raised; then one whose tensor only rank 1 has."""
    ranks, found = Ranks(), []
    rows = distribute_tensor(torch.arange(6.0), init_device_mesh("cpu", (2,)), [Shard(0)])
    rank = str(ranks.rank)
    for state in (
        {"w": rows, f"stage{rank}": {"w": rows}},
        {"w": rows, "ranks": {rank: 1}},
        {"w": rows, "losses": [1.0] * (1 + ranks.rank), **({} if ranks.rank else {"step": 3})},
        {"w": distribute_tensor(torch.arange(5.0), DeviceMesh("cpu", [1]), [Shard(0)])},
    ):
        path = Path(place) / "a_1.pt"
        try:
            write_gathered(path, state, manifest(), ranks)
            found.append(str(torch.load(path)["w"].tolist()))
        except MarlinError as error:
            found.append(f"{type(error).__name__}: {error}")
        dist.barrier()
    return found


def peak(place: str) -> list[float | bool]:
    """The MB that a rank takes at most to write eight tensors of 33.6 MB, beside its part of them."""
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)  # else malloc keeps of what is freed as much again
    ranks = Ranks()
    mesh = init_device_mesh("cpu", (ranks.world_size,))
    wholes = [torch.full((1024, 8192), number, dtype=torch.float32) for number in range(8)]
    state = {
        str(n): distribute_tensor(one, mesh, [Shard(0)], src_data_rank=None) for n, one in enumerate(wholes)
    }
    wholes.clear()
    path = Path(place) / "large_1.pt"
    # The first time, the pages of libraries count, which a forked process has not touched yet.
    write_gathered(path, {number: state[number] for number in "01"}, manifest(), ranks)
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    write_gathered(path, state, manifest(), ranks)
    taken = memory_mb("VmHWM") - before
    right = all(bool((one == int(key)).all()) for key, one in marlin_ckpt.load(path).items())
    dist.barrier()
    return [taken, right]
