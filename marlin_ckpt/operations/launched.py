"""What torchrun has told this process in its environment: which of a run's processes it is, which start.

And what this process tells torchrun: what has ended it.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from marlin_ckpt.distribution import DistributedTrainingArguments

COMMAND = "torchrun --nproc-per-node 4 -m marlin_ckpt"
_PREFIX = "TORCHELASTIC_"
_UNNAMED = "none"  # torchrun's own id of a launch that was given none
# torchrun's default; see its --help.
_SHUTDOWN_S = 30.0
_SHUTDOWN = "--shutdown-timeout"


class Launch(NamedTuple):
    """One call of torchrun, which starts its processes again where one fails (`--max-restarts`).

    Attributes:
        id: the same in all these starts, and in no other launch.
        restarts: how many starts there were before this one.
    """

    id: str
    restarts: int


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def launched(environment: Mapping[str, str] = os.environ) -> "DistributedTrainingArguments | None":
    """Which process of its run this one is, as torchrun says; None where nothing says it.

    Args:
        environment: of the process.
    """
    rank, world_size = (_number(environment.get(name)) for name in ("RANK", "WORLD_SIZE"))
    if rank is None or world_size is None:
        return None
    from marlin_ckpt.distribution import DistributedTrainingArguments  # noqa: PLC0415 - as below

    local_rank = _number(environment.get("LOCAL_RANK")) or 0
    return DistributedTrainingArguments(local_rank=local_rank, global_rank=rank, world_size=world_size)


def launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """The launch that this start belongs to; None where torchrun has not started the process.

    Args:
        environment: of the process.
    """
    name, restarts = environment.get(f"{_PREFIX}RUN_ID"), _number(environment.get(f"{_PREFIX}RESTART_COUNT"))
    if name is None or restarts is None:
        return None
    # torchrun is the parent, and stays when it starts its processes again.
    return Launch(f"{name}/{os.getppid()}/{_began(os.getppid())}" if name == _UNNAMED else name, restarts)


def has_store(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun itself has the store through which the processes find each other, from their start."""
    return environment.get(f"{_PREFIX}USE_AGENT_STORE") == "True"


def report(message: str, environment: Mapping[str, str] = os.environ) -> None:
    """Leaves what has ended this process where torchrun looks for it, which prints it below its table.

    Args:
        message: that was printed.
        environment: of the process.
    """
    import json  # noqa: PLC0415 - `latest` goes without

    path = environment.get(f"{_PREFIX}ERROR_FILE")
    if not path:
        return
    # As torch.distributed.elastic.multiprocessing.errors reads it; half a file would end torchrun itself.
    found = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
    with contextlib.suppress(OSError):
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
            json.dump(found, file)
        os.replace(f"{path}.{os.getpid()}", path)


def shutdown_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """The seconds between torchrun's SIGTERM and its SIGKILL; None where torchrun is not there.

    Args:
        environment: of the process.
    """
    if f"{_PREFIX}RUN_ID" not in environment:
        return None
    words = _command_of(os.getppid())
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name.replace("_", "-") == _SHUTDOWN and (found := _number(value or following)) is not None:
            return float(found)
    asked = environment.get("PET_SHUTDOWN_TIMEOUT") or environment.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    found = _number(asked)
    return _SHUTDOWN_S if found is None else float(found)


def _command_of(process: int) -> list[str]:
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            return os.fsdecode(file.read()).split("\0")
    except OSError:
        return []


def _began(process: int) -> str:
    """When a process began, in the kernel's ticks: its number alone is used again."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()  # proc(5): field 22
    except (OSError, IndexError):
        return ""
