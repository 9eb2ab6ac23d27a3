"""The batches of each rank: as many for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, Sampler

from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.training import workers
from marlin_ckpt.training.resume import order

NO_BATCH: Any = object()  # what a rank has where others have a batch more
_END: Any = object()


class Common:
    """The batches of a loader up to the last that all ranks have.

    How many these are is agreed on at the beginning where all ranks know it; else before each batch, and all
    end with the one that ends first.

    Attributes:
        left: how many come after the present one; None where that is not known.
    """

    def __init__(self, loader: Iterable[Any], ranks: Ranks) -> None:
        self._loader, self._ranks = loader, ranks
        own = _left(loader)
        (least, is_unknown) = ranks.least(-1 if own is None else own, 0 if own is None else 1)
        self.left: int | None = least if is_unknown else None

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        while self.left is None or self.left > 0:
            batch = next(batches, _END)
            if self.left is not None:
                self.left -= 1
            elif not self._ranks.least(batch is not _END)[0]:
                return
            if batch is _END:
                self.left = 0
                return
            yield batch


def _left(loader: Iterable[Any]) -> int | None:
    """How many batches a loader will make; None where that is not known for sure."""
    inner = loader.loader if isinstance(loader, order.Remaining) else loader
    if isinstance(inner, DataLoader) and isinstance(inner.dataset, IterableDataset):
        return None
    if not isinstance(inner, (DataLoader, list, tuple)):
        return None
    if isinstance(loader, order.Remaining):
        return loader.left()
    try:
        return len(inner)
    except (TypeError, NotImplementedError):
        return None


class InStep(order.Watched):
    """A loader whose ranks take their batches together, though some have more: the others get `NO_BATCH`.

    All look at what they have been asked for before each batch, however many batches each has.
    """

    def __init__(self, loader: Any, look: Callable[[], None], ranks: Ranks) -> None:
        super().__init__(loader, look)
        self._ranks = ranks

    def __iter__(self) -> Iterator[Any]:
        self._batches = batches = workers.iterate(self.loader)
        batch = next(batches, _END)
        while self._ranks.most(batch is not _END)[0]:
            self._look()
            yield NO_BATCH if batch is _END else batch
            batch = _END if batch is _END else next(batches, _END)


class EveryNth(Sampler[int]):
    """The samples of one rank in the data's own order: each sample is one rank's, and none is taken twice."""

    def __init__(self, data_source: Sized, rank: int = 0, world_size: int = 1) -> None:
        """Takes the data set, whose length counts, and which of how many parts."""
        self._own = range(rank, len(data_source), world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def watched(loader: Any, look: Callable[[], None], ranks: Ranks) -> order.Watched:
    """A loader of validation batches that looks before each.

    Args:
        loader: of this rank.
        look: is called by all ranks before each batch of any.
        ranks: of the run.
    """
    return order.Watched(loader, look) if ranks.world_size == 1 else InStep(loader, look, ranks)
