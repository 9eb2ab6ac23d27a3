"""The order of the training data, and the batches of an epoch that are left."""

from collections.abc import Callable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, NamedTuple, Self

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from marlin_ckpt.training import workers
from marlin_ckpt.training.resume import loaders, rng

_CHUNK = 1 << 16  # samples whose numbers are converted at once


class Share(NamedTuple):
    """One rank's part of the data.

    Attributes:
        rank: whose.
        world_size: of how many.
    """

    rank: int = 0
    world_size: int = 1


ALL = Share()


class EpochSampler(RandomSampler):
    """Every sample of a data set once, in an order that the seed and the epoch alone decide.

    Of many ranks each takes every nth sample of that order, so that all of them together have used the same
    beginning of it, however many they are. All have equally many: the last few samples of an order, fewer
    than there are ranks, are left out.

    Attributes:
        seed: of the orders of all epochs.
        epoch: the epoch that is iterated over.
        skip: how many samples at the beginning of the order are skipped, since they have been used, by
            whichever rank.
        share: whose samples these are.
    """

    def __init__(self, data_source: Sized, share: Share = ALL) -> None:
        """Takes the data set, whose length counts, and whose samples are asked for."""
        super().__init__(data_source)
        self.seed = self.epoch = self.skip = 0
        self.share = share

    def __len__(self) -> int:
        return len(self.data_source) // self.share.world_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(rng.derived(self.seed, "order", self.epoch))
        order = torch.randperm(len(self.data_source), generator=generator)
        rank, world_size = self.share
        end = self.skip + self.left() * world_size
        own = order[self.skip + rank : max(end, self.skip + rank) : world_size]
        for start in range(0, len(own), _CHUNK):
            yield from own[start : start + _CHUNK].tolist()

    def left(self) -> int:
        """How many samples it will yield."""
        return max(len(self.data_source) - self.skip, 0) // self.share.world_size


class _Wrapped:
    """Has the attributes and the length of the loader that it wraps; a context that ends its workers."""

    loader: Any
    _batches: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends what makes batches; after an exception, its traceback would keep it alive."""
        workers.end(self.loader, self._batches, is_kept=kind is None)


class Remaining(_Wrapped):
    """The batches of an epoch that have not been trained on yet; in all else it is the loader.

    Attributes:
        loader: that they come from.
        lost: why they are not just those that are left, a sentence each.
        done: the batches of the epoch that had been trained on when it was made.
    """

    def __init__(  # noqa: PLR0913 - all but the first are names
        self,
        loader: Any,
        *,
        seed: int,
        epoch: int,
        done: int,
        saved: Mapping[str, Any] | None = None,
        share: Share = ALL,
    ) -> None:
        """Begins to load after what has been trained on.

        A loader that restores its own position (`load_state_dict`, as torchdata's `StatefulDataLoader`) does
        that. Else the sampler skips the samples that have been used; where there is none, or one of whole
        batches, the batches are loaded and dropped.

        Args:
            loader: of the epoch's batches.
            seed: of the run's data.
            epoch: from 0.
            done: the batches that have been trained on.
            saved: what `state` returned when these batches were done; None: nothing is known of them.
            share: whose batches these are, of a sampler of ours. One of the user's is left as it is.
        """
        self.loader, self.done = loader, done
        self.lost: list[str] = []
        self._last_state: Any = None
        self._keeps_state = loaders.keeps_state(loader)
        self._is_finished = False
        self._batch_size = loaders.batch_size(loader)
        self._began_batches = done
        self._share = share
        self._began_samples = (saved or {}).get("samples") or done * self._batch_size * share.world_size
        self._skipping: _Skipping | None = None
        sampler = loaders.sampler(loader)
        parts = [getattr(loader, name, None) for name in ("dataset", "batch_sampler")]
        for one in (loader, *parts, sampler):
            getattr(one, "set_epoch", _ignore)(epoch)
        if isinstance(sampler, EpochSampler):
            sampler.seed, sampler.epoch, sampler.skip, sampler.share = seed, epoch, 0, share
        to_drop = self._seek(sampler, saved or {})
        # A loader that replays makes all batches again, from the first one on.
        first = 0 if to_drop else done
        whose = (share.rank,) if share.rank else ()
        workers_seed = None if self._keeps_state else rng.derived(seed, "workers", epoch, *whose)
        workers.prepare(loader, workers_seed, first)
        self._batches = batches = workers.iterate(loader)
        if self._skipping is not None:
            self._skipping.begin()  # draws what it draws now, before the generators are set to the position
        for _ in range(to_drop):
            next(batches, None)

    def _seek(self, sampler: Any, saved: Mapping[str, Any]) -> int:
        """Has the loader begin after what is done; returns how many batches are still to be dropped."""
        state, size = saved.get("loader"), self._batch_size
        if self._keeps_state:
            if state is not None and self._fits(saved):
                self._is_finished = state["is_finished"]
                self.loader.load_state_dict(state["loader"])
                return 0
        elif size and isinstance(sampler, EpochSampler):
            sampler.skip = self._began_samples
            return 0
        elif size and self._began_samples and _is_of_a_sampler(self.loader):
            self._twice(1)
            self._skipping = _Skipping(self.loader.batch_sampler, self._own_samples())
            return 0
        if not size:
            return self._began_batches
        self._twice(size)
        return self._own_samples() // size

    def _twice(self, size: int) -> None:
        """Goes back to where each rank has done whole batches of a size."""
        if left_over := self._began_samples % (size * self._share.world_size):
            of_ranks = "" if self._share.world_size == 1 else f" for each of {self._share.world_size} ranks"
            batches = (
                f"batches are of {size}{of_ranks}"
                if size > 1
                else f"there are {self._share.world_size} ranks"
            )
            self.lost.append(f"{left_over} samples of the epoch are trained on twice, as {batches}")
            self._began_samples -= left_over

    def _own_samples(self) -> int:
        """How many samples this rank has used, whose part its own sampler makes."""
        return self._began_samples // self._share.world_size

    def _fits(self, saved: Mapping[str, Any]) -> bool:
        """Whether the loader can restore a state; torchdata's counts batches of data without a sampler."""
        if saved.get("workers", now := getattr(self.loader, "num_workers", 0)) != now:
            return False
        data = getattr(self.loader, "dataset", None)
        is_counted = isinstance(data, IterableDataset) and not hasattr(data, "state_dict")
        return not is_counted or saved.get("batch_size", self._batch_size) == self._batch_size

    def __iter__(self) -> Iterator[Any]:
        if not self._is_finished:
            for batch in self._batches:  # noqa: UP028 - that would close one that goes on in the next epoch
                yield batch
            self._is_finished = True

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Ends what makes batches; after an exception it keeps the loader's state, which ends with it."""
        if self._skipping is not None:
            self._skipping.end()
        if kind is not None and self._keeps_state:
            self._last_state = self._loader_state()
        super().__exit__(kind, *rest)

    def state(self, done: int) -> dict[str, Any]:
        """What is needed to go on after so many batches.

        Args:
            done: the batches of the epoch that have been trained on.
        """
        found: dict[str, Any] = {"workers": getattr(self.loader, "num_workers", 0), "loader": None}
        if self._batch_size:
            found["batch_size"] = self._batch_size
            since = (done - self._began_batches) * self._batch_size
            found["samples"] = self._began_samples + since * self._share.world_size
        if self._keeps_state:
            found["loader"] = self._last_state or self._loader_state()
        return found

    def left(self) -> int | None:
        """How many batches it makes, where its loader and its sampler say that."""
        sampler, size = loaders.sampler(self.loader), self._batch_size
        if self._keeps_state:
            return None
        try:
            if not size:
                return max(len(self.loader) - self._began_batches, 0)
            of_sampler = isinstance(sampler, EpochSampler)
            samples = sampler.left() if of_sampler else len(sampler) - self._own_samples()
        except (TypeError, NotImplementedError):
            return None
        is_whole = getattr(self.loader.batch_sampler, "drop_last", False)
        return max(samples // size if is_whole else -(-samples // size), 0)

    def _loader_state(self) -> dict[str, Any]:
        # At its end a loader's state is that of the beginning of the next epoch.
        return {"is_finished": self._is_finished, "loader": self.loader.state_dict()}


def _ignore(_epoch: int) -> None:
    """Stands for the `set_epoch` of what has none."""


def _is_of_a_sampler(loader: Any) -> bool:
    return (
        isinstance(loader, DataLoader)
        and loader.batch_sampler is not None
        and not isinstance(loader.dataset, IterableDataset)
    )


class _Skipping:
    """Takes the place of the sampler of a batch sampler for one epoch, and skips its first samples."""

    def __init__(self, batches: Any, count: int) -> None:
        self._batches, self._sampler, self._count = batches, batches.sampler, count
        self._rest: Iterator[Any] | None = None
        batches.sampler = self

    def begin(self) -> None:
        """Skips the samples, unless a worker's loader has asked for the first one already."""
        if self._rest is None:
            self._rest = iter(self._sampler)
            next(islice(self._rest, self._count, self._count), None)

    def end(self) -> None:
        """Gives the sampler back to the batch sampler."""
        self._batches.sampler = self._sampler

    def __iter__(self) -> Iterator[Any]:
        self.begin()
        yield from self._rest or ()

    def __len__(self) -> int:
        return len(self._sampler)


class Watched(_Wrapped):
    """A loader that calls a function before each batch."""

    def __init__(self, loader: Any, look: Callable[[], None]) -> None:
        self.loader = loader
        self._look = look

    def __iter__(self) -> Iterator[Any]:
        self._batches = workers.iterate(self.loader)
        for batch in self._batches:
            self._look()
            yield batch
