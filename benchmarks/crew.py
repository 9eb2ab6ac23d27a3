"""Ranks of one process group that stay alive and do what they are told, so that measurements take turns."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

Commands = dict[str, Callable[..., Any]]
_PATIENCE_S = 600.0


class Done(NamedTuple):
    """What a rank did.

    Attributes:
        cpu_s: the processor time of it.
        result: what it returned.
    """

    cpu_s: float
    result: Any


class Crew:
    """Ranks that wait for commands."""

    def __init__(self, connections: list[Connection]) -> None:
        self._connections = connections

    def do(self, command: str, *arguments: Any) -> list[Done]:
        """Has all ranks do something, beginning together, and waits for the last.

        Raises:
            RuntimeError: a rank has failed.
        """
        for one in self._connections:
            one.send((command, arguments))
        answers: list[Done | str] = [
            one.recv() if one.poll(_PATIENCE_S) else f"{command}: no answer" for one in self._connections
        ]
        if failed := [one for one in answers if isinstance(one, str)]:
            raise RuntimeError("\n".join(failed))
        return [one for one in answers if isinstance(one, Done)]


def processes() -> ForkServerContext:
    """Makes processes that are forked from one which has imported what all of them need, and no more.

    That is what each process looks into when it starts, and what the first optimizer imports.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.__main__", "torch._dynamo"])
    return context


@contextlib.contextmanager
def crew(world_size: int, prepare: Callable[..., Commands], *arguments: Any) -> Iterator[Crew]:
    """Starts ranks on gloo, with a thread of torch's each; they are gone afterwards.

    Args:
        world_size: how many.
        prepare: called at each rank, and returns what it can be told to do.
        arguments: of that.
    """
    context = processes()
    with tempfile.TemporaryDirectory() as folder:
        connections, started = [], []
        for rank in range(world_size):
            own, other = context.Pipe()
            place = rank, world_size, f"{folder}/store"
            process = context.Process(target=_rank, args=(other, place, prepare, arguments), daemon=True)
            process.start()
            other.close()
            connections.append(own)
            started.append(process)
        try:
            found = Crew(connections)
            found.do("")
            yield found
        finally:
            for one in connections:
                one.close()
            for process in started:
                process.join(10)
                process.kill()
                process.join()


def _rank(
    connection: Connection,
    place: tuple[int, int, str],
    prepare: Callable[..., Commands],
    arguments: tuple[Any, ...],
) -> None:
    rank, world_size, store = place
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = str(world_size)  # as torchrun does
    dist.init_process_group("gloo", init_method=Path(store).as_uri(), rank=rank, world_size=world_size)
    commands: Commands = {}
    with contextlib.suppress(EOFError):  # nobody has commands any more
        while True:
            command, given = connection.recv()
            try:
                if not command:
                    commands = prepare(*arguments)
                    connection.send(Done(0.0, None))
                    continue
                dist.barrier()
                began = time.process_time()
                result = commands[command](*given)
                connection.send(Done(time.process_time() - began, result))
            except BaseException:  # noqa: BLE001 - DCP's own errors are such
                connection.send(f"rank {rank}: {traceback.format_exc()}")
    dist.barrier()
    dist.destroy_process_group()
