"""Checkpoints of runs on many ranks: what the ranks agree on, and how they save and load together.

Built on `torch.distributed`: its launcher, its process groups, its planners and DTensor. What is ours is
where the bytes go, when a checkpoint exists, and that all ranks end a save or a load alike.

MarlinWriter and MarlinReader are public; they are bound on first use, as the names of `marlin_ckpt` are.

ranks      Ranks: which process of a run this is, and what all of them agree on
meeting    how ranks make a group, however often each of them has tried it
roll_call  which ranks still answer, after one has ended
processes  whether the process of a rank has ended, on this machine
launch     how a process finds the others, and parts from them
failures   a failure at one rank, raised at all of them
flat       a nested state and the flat names under which it is stored
metadata   `.metadata`, torch's pickle in a sharded checkpoint, to and from bytes
planning/  SavePlans: who writes what, and where
commit     the folder that all ranks fill, and its one rename
saving     save_sharded, and its two halves: prepare, and write
shards/    what of that each rank writes
writer     MarlinWriter, by which `dcp.save` writes
gathering  whole tensors of DTensors, one after the other, at rank 0, for what is written as one file
loading    what ranks that load together agree on: the newest good checkpoint, and how a load ended
reads/     what a rank reads of a sharded checkpoint
reader     MarlinReader: the same for `torch.distributed.checkpoint.load`
"""

from importlib import import_module

TYPE_CHECKING = False  # as type checkers read it

if TYPE_CHECKING:
    from marlin_ckpt.distributed.reader import MarlinReader as MarlinReader
    from marlin_ckpt.distributed.writer import MarlinWriter as MarlinWriter

_HOMES = {"MarlinReader": f"{__name__}.reader", "MarlinWriter": f"{__name__}.writer"}

__all__ = ["MarlinReader", "MarlinWriter"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
