"""How many bytes of a file's storages belong to no element of any tensor.

`torch.save` writes the whole storage behind a tensor: of a slice of a large tensor the whole large one.
"""

from collections.abc import Iterable

from marlin_ckpt.formats.values.tensor import TensorInfo


def unused_bytes(tensors: Iterable[TensorInfo]) -> int:
    """Bytes of the storages of some tensors in which none of them has an element.

    Elements that lie between those of a strided view count as unused where no other tensor has them, as far
    as the sizes tell: no single place is looked at.
    """
    storages: dict[str, list[TensorInfo]] = {}
    for one in tensors:
        if one.is_inside and not one.pieces:
            storages.setdefault(one.storage, []).append(one)
    return sum(each[0].storage_bytes - _used(each) for each in storages.values())


def _used(tensors: list[TensorInfo]) -> int:
    """At most what all tensors take, and at most what lies between the first and the last element of any."""
    whole = tensors[0].storage_bytes
    spans: dict[tuple[int, int], int] = {}
    for one in tensors:
        start, end = one.offset * one.item_bytes, (one.last + 1) * one.item_bytes
        span = (0, whole) if one.is_opaque else (start, end)
        spans[span] = max(spans.get(span, 0), min(one.size_bytes, span[1] - span[0]))
    covered = reached = 0
    for start, end in sorted(spans):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return min(covered, sum(spans.values()))
