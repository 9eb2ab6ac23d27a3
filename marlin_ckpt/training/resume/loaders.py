"""What the batches of an epoch depend on, as far as a data loader shows it."""

import contextlib
from collections.abc import Mapping
from typing import Any, cast

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

# A resumed run with other values of these is another run.
_SAMPLES, _BATCHES = "train_samples", "train_batches"
_LOADER = "train_loader."


def conditions(loader: Any) -> dict[str, Any]:
    """The conditions that training data add to those of a run, by their names.

    Args:
        loader: of one epoch's training data; None for a module that is only validated.
    """
    found: dict[str, Any] = {}
    if isinstance(loader, DataLoader):
        with contextlib.suppress(TypeError, NotImplementedError):  # data of no known length
            found[_SAMPLES] = len(cast("Any", loader.dataset))
        found |= {
            f"{_LOADER}sampler": type(sampler(loader)).__qualname__,
            f"{_LOADER}batch_size": batch_size(loader),
            f"{_LOADER}drop_last": bool(getattr(loader.batch_sampler, "drop_last", False)),
            f"{_LOADER}workers": _workers(loader),
        }
    if _SAMPLES not in found:
        with contextlib.suppress(TypeError, NotImplementedError, AttributeError):
            found[_BATCHES] = len(loader)
    return found


def among(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Those of all the conditions of a run that are of its training data."""
    return {
        name: value
        for name, value in conditions.items()
        if name in (_SAMPLES, _BATCHES) or name.startswith(_LOADER)
    }


def _workers(loader: DataLoader[Any]) -> str:
    """How many workers, where that changes the samples; else only whether there are some."""
    if not loader.num_workers:
        return "none"
    # We seed those of a map-style data set for each batch, whichever of them makes it.
    is_any = not (isinstance(loader.dataset, IterableDataset) or keeps_state(loader))
    return "some" if is_any else str(loader.num_workers)


def keeps_state(loader: Any) -> bool:
    """Whether a loader restores its own position, as torchdata's `StatefulDataLoader` does."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def sampler(loader: Any) -> Any:
    """The sampler of single samples, or None."""
    batches = getattr(loader, "batch_sampler", None)
    return getattr(loader if batches is None else batches, "sampler", None)


def batch_size(loader: Any) -> int:
    """The samples in a batch; 0 where that is not known."""
    if not isinstance(loader, DataLoader):
        return 0
    batches = cast("Any", loader.batch_sampler)
    if batches is None:
        return 1
    kind = type(batches)
    # torchdata's is a subclass by the same name.
    is_plain = kind is BatchSampler or (
        issubclass(kind, BatchSampler) and kind.__module__.startswith("torchdata.")
    )
    return int(batches.batch_size) if is_plain else 0


def losses(loader: Any, *, within: bool) -> list[str]:
    """What of a loader cannot be restored when a run is resumed, a sentence each.

    Args:
        loader: of the epoch's training data.
        within: the run is resumed within an epoch.
    """
    if not getattr(loader, "num_workers", 0):
        return []
    what = "what the data loader's workers draw at random cannot be restored, since"
    if getattr(loader, "persistent_workers", False):
        return [f"{what} it keeps them from one epoch to the next (persistent_workers)"]
    return [f"{what} it restores its workers itself"] if within and keeps_state(loader) else []
