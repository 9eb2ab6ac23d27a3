"""The outputs and metrics of all ranks, and what they find to be said."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch

from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.training.resume.leaves import fingerprint, leaves

_NOTHING: Any = object()


def packed(value: Any) -> bytes:
    """A value as bytes, for another rank."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def unpacked(data: bytes) -> Any:
    """What another rank of the run has packed."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


def gathered(ranks: Ranks, outputs: list[Any]) -> list[Any]:
    """The outputs of all ranks, each place with a row of every rank in turn.

    Since the ranks take the samples of a validation in turn too, outputs of single samples come in the order
    of the data.

    Args:
        ranks: that all call this.
        outputs: of this one: for each place a tensor whose first dimension counts, or a list.
    """
    if ranks.world_size == 1:
        return outputs
    sent = ranks.exchanged(packed(outputs))
    found = [unpacked(one) for one in sent]
    return [
        _in_turn([one for one in each if one is not _NOTHING])
        for each in zip_longest(*found, fillvalue=_NOTHING)
    ]


def _in_turn(parts: list[Any]) -> Any:
    """One place of all ranks."""
    tensors = all(isinstance(one, torch.Tensor) for one in parts)
    if not tensors or len({(one.dtype, one.shape[1:]) for one in parts}) > 1:
        rows = zip_longest(*map(list, parts), fillvalue=_NOTHING)
        return [one for row in rows for one in row if one is not _NOTHING]
    whole = torch.cat(parts)
    row, rank = (
        torch.cat(
            [
                torch.arange(len(one)) if is_row else torch.full((len(one),), place)
                for place, one in enumerate(parts)
            ]
        )
        for is_row in (True, False)
    )
    return whole[torch.argsort(row * len(parts) + rank)]


def agreed(ranks: Ranks, metrics: Mapping[str, float], samples: Mapping[str, int]) -> dict[str, float]:
    """The metrics of all ranks: those that differ weighted by the samples that each is the mean of.

    Args:
        ranks: that all call this.
        metrics: of this one.
        samples: that it has validated, by the key of the loader.
    """
    if ranks.world_size == 1:
        return dict(metrics)
    weighted = {name: (value, _weight(name, samples)) for name, value in metrics.items()}
    found: list[dict[str, tuple[float, int]]] = [unpacked(one) for one in ranks.exchanged(packed(weighted))]
    names = dict.fromkeys(name for each in found for name in each)
    return {name: _mean([each[name] for each in found if name in each]) for name in names}


def _weight(name: str, samples: Mapping[str, int]) -> int:
    """The samples that a metric is the mean of: of the loader that it names, of none or of all.

    In training all ranks take as many.
    """
    words = _words(name)
    if words.startswith(" train "):
        return 1
    named = [count for key, count in samples.items() if _words(str(key)) in words]
    return sum(named or samples.values())


def _words(name: str) -> str:
    return f" {re.sub('[^0-9A-Za-z]+', ' ', name)} "


def _mean(values: list[tuple[float, int]]) -> float:
    if len({repr(value) for value, _ in values}) == 1:  # NaN too
        return values[0][0]
    counted = [(value, weight) for value, weight in values if weight]
    if not counted:
        counted = [(value, 1) for value, _ in values]
    return sum(value * weight for value, weight in counted) / sum(weight for _, weight in counted)


def said(ranks: Ranks, sentences: Sequence[str]) -> list[str]:
    """What the ranks find to be said, each sentence once, and with the ranks where it is not true of all.

    Args:
        ranks: that all call this.
        sentences: of this one.
    """
    if ranks.world_size == 1:
        return list(sentences)
    found: dict[str, list[int]] = {}
    for rank, sent in enumerate(ranks.exchanged(packed(list(sentences)))):
        for one in dict.fromkeys(unpacked(sent)):
            found.setdefault(one, []).append(rank)
    return [one if len(of) == ranks.world_size else f"at {_names(of)} {one}" for one, of in found.items()]


def _names(of: Sequence[int]) -> str:
    return f"rank {of[0]}" if len(of) == 1 else f"ranks {', '.join(map(str, of[:-1]))} and {of[-1]}"


def are_repeated(ranks: Ranks, batch: Any) -> bool:
    """Whether two ranks have the same batch.

    Args:
        ranks: that all call this.
        batch: of this one; without tensors it is like no other.
    """
    found = [fingerprint(one) for _, one in leaves(batch) if isinstance(one, torch.Tensor) and one.numel()]
    sent = [one for one in ranks.exchanged("".join(found).encode()) if one]
    return len(set(sent)) < len(sent)


def samples(batch: Any) -> int:
    """How many samples a batch has, as its first tensor says; 1 where it has none."""
    for _, one in leaves(batch):
        if isinstance(one, torch.Tensor):
            return len(one) if one.dim() else 1
    return 1
