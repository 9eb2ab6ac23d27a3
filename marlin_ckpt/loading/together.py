"""Reads a checkpoint, which is one file or sharded, at one rank or at several together."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from marlin_ckpt.distributed.failures import told_by_main
from marlin_ckpt.distributed.loading import agreed
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch import reader
from marlin_ckpt.formats.torch.placement import FindPairs, MapLocation, Pair


@dataclass(frozen=True)
class How:
    """How a checkpoint is to be read; see `formats.torch.reader.read_file`.

    Attributes:
        weights_only: import nothing beyond plain values and tensors.
        log: is told, at rank 0, what a reader should know.
        pairs: compares the state with live objects, before a byte of any tensor is read.
        arrange: changes names in the state before it is compared.
        map_location: where tensors go that no live object takes, as for `torch.load`.
    """

    weights_only: bool
    log: Callable[[str], None]
    pairs: FindPairs = lambda *_: ()
    arrange: Callable[[Any], Any] = lambda state: state
    map_location: MapLocation = "cpu"

    def device(self) -> torch.device:
        """The device that `map_location` names for a tensor of the CPU."""
        place: Any = self.map_location
        if isinstance(place, dict):
            place = place.get("cpu", "cpu")
        elif callable(place):
            found = place(torch.empty(0).untyped_storage(), "cpu")
            place = None if found is None else found.device
        return torch.device("cpu" if place is None else place)


def read_together(
    path: str,
    ranks: Ranks,
    how: How,
    into: Any = None,
    read_file: Callable[..., tuple[Any, Manifest | None]] = reader.read_file,
) -> tuple[Any, Manifest | None]:
    """Reads a checkpoint at all ranks.

    Args:
        path: of the file or folder.
        ranks: which all call this.
        how: to read it.
        into: the live objects that `how.pairs` compares.
        read_file: reads a file.

    Returns:
        the state, and the manifest if there is one.

    Raises:
        MarlinError: as `read_file` does; the same at all ranks.
    """
    if told_by_main(ranks, lambda: _has_shards(path)):
        # It imports DTensor, which takes longer than many a load.
        from marlin_ckpt.loading.sharded import read_sharded  # noqa: PLC0415

        return read_sharded(path, ranks, how, into)

    def pairs(payload: Any, manifest: Manifest | None) -> Iterable[Pair]:
        return how.pairs(how.arrange(payload), manifest)

    is_to_cpu = how.map_location == "cpu"
    place = {} if is_to_cpu else {"map_location": how.map_location}
    log = how.log if ranks.is_main else _silent
    return agreed(
        ranks, lambda: read_file(path, weights_only=how.weights_only, log=log, pairs=pairs, **place)
    )


def _has_shards(path: str) -> bool:
    """Whether a path is a folder with shards, or what is left of one."""
    if not os.path.isdir(path):
        return False
    return any(name.endswith((".metadata", ".distcp")) or name == ".marlin" for name in os.listdir(path))


def _silent(_: str) -> None:
    pass
