"""How a run is spread over ranks: the process group, and how a module is sharded."""

from dataclasses import dataclass, field
from typing import Literal

from marlin_ckpt.fields import Checked


@dataclass
class DistributedTrainingArguments(Checked):
    """Which process of a run this one is; PyMarlin's.

    A trainer fills it from the environment that torchrun sets, unless it is given.

    Attributes:
        local_rank: the number of this process on its machine, and of its CUDA device.
        global_rank: its number among all.
        world_size: how many processes there are.
        backend: what CUDA tensors are sent by: `nccl`, or `gloo` where two ranks share a device. Tensors on
            the CPU are always sent by gloo.
        init_method: how the processes find each other, as `torch.distributed` has it.
        gather_frequency: PyMarlin's, for outputs that are gathered on a device. Ours are gathered on the CPU,
            where it has no effect.
    """

    local_rank: int = field(default=0, metadata={"minimum": 0})
    global_rank: int = field(default=0, metadata={"minimum": 0})
    world_size: int = field(default=1, metadata={"minimum": 1})
    backend: str = "nccl"
    init_method: str = "env://"
    gather_frequency: int | None = None


@dataclass
class FsdpArguments(Checked):
    """How `backend: fsdp2` shards a module, with torch's `fully_shard`.

    Attributes:
        wrap: the names of the classes whose modules are gathered and freed one at a time, such as
            `TransformerBlock`. `auto` takes the modules in each `ModuleList`.
        reshard_after_forward: free the gathered parameters after the forward pass, and gather them again for
            the backward pass. `false` takes more memory and less time.
        mixed_precision: the type that parameters are gathered and computed in, and the numbers of a batch are
            converted to; gradients are summed in `float32` in any case. `float32` converts nothing.
    """

    wrap: list[str] | Literal["auto"] = "auto"
    reshard_after_forward: bool = True
    mixed_precision: str = field(default="float32", metadata={"choices": ("float32", "bfloat16")})
