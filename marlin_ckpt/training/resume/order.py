"""The order of the training data, and the batches of an epoch that are left."""

from collections.abc import Callable, Iterator, Sized
from typing import Any, Self, cast

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from marlin_ckpt.training import workers
from marlin_ckpt.training.resume import rng

_CHUNK = 1 << 16  # samples whose numbers are converted at once


class EpochSampler(RandomSampler):
    """Every sample of a data set once, in an order that the seed and the epoch alone decide.

    Attributes:
        seed: of the orders of all epochs.
        epoch: the epoch that is iterated over.
        skip: how many samples at the beginning of the order are skipped, since they have been used.
    """

    def __init__(self, data_source: Sized) -> None:
        """Takes the data set, whose length counts."""
        super().__init__(data_source)
        self.seed = self.epoch = self.skip = 0

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(rng.derived(self.seed, "order", self.epoch))
        order = torch.randperm(len(self), generator=generator)
        for start in range(self.skip, len(order), _CHUNK):
            yield from order[start : start + _CHUNK].tolist()


class _Wrapped:
    """Has the attributes and the length of the loader that it wraps."""

    loader: Any

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class Remaining(_Wrapped):
    """The batches of an epoch that have not been trained on yet; in all else it is the loader.

    Attributes:
        loader: that they come from.
    """

    def __init__(self, loader: Any, *, seed: int, epoch: int, done: int, state: Any = None) -> None:
        """Begins to load after the batches that have been done.

        These are not loaded again where the sampler is an `EpochSampler`, or where the loader restores its
        own position (`load_state_dict`, as torchdata's `StatefulDataLoader`); else they are loaded and
        dropped.

        Args:
            loader: of the epoch's batches.
            seed: of the run's data.
            epoch: from 0.
            done: the batches that have been trained on.
            state: what `state` returned when these batches were done, or None.
        """
        self.loader = loader
        self._keeps_state = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        self._is_finished = False
        sampler, batch_size = _sampler(loader)
        to_throw_away = done
        if state is not None and self._keeps_state:
            self._is_finished = state["is_finished"]
            loader.load_state_dict(state["loader"])
            to_throw_away = 0
        if isinstance(sampler, EpochSampler):
            sampler.seed, sampler.epoch, sampler.skip = seed, epoch, 0
            if batch_size and to_throw_away:
                sampler.skip, to_throw_away = done * batch_size, 0
        elif hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        # A loader that replays makes all batches again, from the first one on.
        first = 0 if to_throw_away else done
        workers.prepare(loader, None if self._keeps_state else rng.derived(seed, "workers", epoch), first)
        self._batches = iter(loader)
        for _ in range(to_throw_away):
            next(self._batches, None)

    def __iter__(self) -> Iterator[Any]:
        if not self._is_finished:
            yield from self._batches
            self._is_finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends the worker processes after an exception, whose traceback would keep them alive."""
        if kind is not None:
            getattr(self._batches, "_shutdown_workers", lambda: None)()

    def state(self) -> Any:
        """The state of the loader, which holds its position; None for a loader without one."""
        if not self._keeps_state:
            return None
        # At its end a loader's state is that of the beginning of the next epoch.
        return {"is_finished": self._is_finished, "loader": self.loader.state_dict()}


class Watched(_Wrapped):
    """A loader that calls a function before each batch."""

    def __init__(self, loader: Any, look: Callable[[], None]) -> None:
        self.loader = loader
        self._look = look

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self._look()
            yield batch


def _sampler(loader: Any) -> tuple[Any, int]:
    """The sampler of a loader, and the samples in a batch; 0 where that is not known."""
    if not isinstance(loader, DataLoader):
        return None, 0
    batches = cast("Any", loader.batch_sampler)
    if batches is None:
        return getattr(loader, "sampler", None), 1
    return getattr(batches, "sampler", None), batches.batch_size if type(batches) is BatchSampler else 0
