"""Averages the weights of several checkpoints, a tensor at a time. Without torch."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from marlin_ckpt.errors import ArgumentsError, Fault, StateMismatchError, UnsavableStateError
from marlin_ckpt.formats.content.contents import TensorInfo
from marlin_ckpt.formats.values import rounding
from marlin_ckpt.formats.values.arrays import Array
from marlin_ckpt.formats.values.checked import Checked
from marlin_ckpt.formats.values.draft import Draft
from marlin_ckpt.operations import export
from marlin_ckpt.operations.export import Exported, Wanted
from marlin_ckpt.operations.weights_file import Output, WeightsFolder

_MOST_DIFFERENCES = 5
_BLOCK = 1 << 14  # elements at a time, as in `rounding`


def weights(count: int, decay: float | None = None) -> list[float]:
    """The weights of the files; that of the last one is 1.

    Args:
        count: how many files there are.
        decay: the weight of each file as a multiple of the next one's, above 0 and at most 1; None is 1.

    Raises:
        ArgumentsError: one of them is out of range.
    """
    if decay is not None and not 0 < decay <= 1:
        raise ArgumentsError([Fault("decay", f"expected a number above 0 and at most 1, not {decay:g}")])
    if count < 1:
        raise ArgumentsError([Fault("files", "expected at least one")])
    return [(1.0 if decay is None else decay) ** (count - 1 - number) for number in range(count)]


def average(files: Sequence[Checked], target: Output, wanted: Wanted, decay: float | None = None) -> Exported:
    """Writes the average of the weights of several checkpoints to a file or a folder of its own.

    Floating-point and complex tensors are summed in float64 and rounded once, to 16 bits by way of float32.
    Tensors of other dtypes are copied from the last file.

    Args:
        files: the checkpoints, the newest last.
        target: the new file or folder.
        wanted: which of their tensors to average, their new names and dtype.
        decay: as for `weights`.

    Returns:
        the report on the new file.

    Raises:
        StateMismatchError: names, shapes or dtypes of their tensors differ from those of the last file.
        MarlinError, BadFileError: as `export` does; no file is written.
    """
    target.check()
    each = weights(len(files), decay)
    chosen = [export.select(file.contents, wanted) for file in files]
    last = chosen[-1]
    for file, selected in zip(files, chosen, strict=True):
        file.expect(selected.tensors.values())
        _check_alike(file.contents.path, selected.tensors, files[-1].contents.path, last.tensors)
    done = export.summary(target, files[-1].contents, chosen)
    drafts = []
    for name in last.tensors:
        sources = [(file, other.tensors[name]) for file, other in zip(files, chosen, strict=True)]
        drafts.append(_draft(name, sources, each, wanted, done))
    if isinstance(target, WeightsFolder):
        target.take_configuration(files[-1])
        done.copied = tuple(target.copied)
    done.size_bytes, done.shards = target.write(drafts, None, {"format": "pt"})
    return done


_Sources = Sequence[tuple[Checked, TensorInfo]]


def _draft(name: str, sources: _Sources, weights: Sequence[float], wanted: Wanted, done: Exported) -> Draft:
    last, tensor = sources[-1]
    dtype = export.dtype_of(name, tensor, wanted)
    average = functools.partial(_average, sources, weights)
    if rounding.is_floating(tensor.dtype):
        if dtype.startswith("float8") or rounding.is_packed(dtype):
            what = f"an average is not rounded to {dtype}, the dtype of {name}"
            raise UnsavableStateError(what, hint="give the new file another dtype with --dtype")
        return export.rounded_draft(name, tensor, dtype, done, average)
    read = average if tensor.dtype.startswith("complex") else functools.partial(last.bits, tensor)
    return export.draft(name, tensor, done, read)


def _average(sources: _Sources, weights: Sequence[float]) -> Array:
    """The weighted mean in float64, or complex128 rounded to the tensors' own dtype; flat."""
    dtype = sources[0][1].dtype
    is_complex = dtype.startswith("complex")
    total: Array = np.empty(0)
    with np.errstate(all="ignore"):
        for (file, tensor), weight in zip(sources, weights, strict=True):
            values = file.values(tensor)
            if not len(total):  # only now is it proven that the file holds that many elements
                total = np.zeros(len(values), np.complex128 if is_complex else np.float64)
            for start in range(0, len(values), _BLOCK):
                part = slice(start, start + _BLOCK)
                total[part] += np.multiply(values[part], weight, dtype=total.dtype)
        total /= sum(weights)
        if dtype == "complex32":
            return total.astype(np.complex64).view(np.float32).astype(np.float16).view(np.uint32)
        return total.astype(dtype) if is_complex else total


def _check_alike(
    path: str, tensors: Mapping[str, TensorInfo], last: str, expected: Mapping[str, TensorInfo]
) -> None:
    """Compares names, shapes and dtypes."""
    differences = [f"{name} is missing in {path}" for name in expected if name not in tensors]
    differences += [f"{name} is missing in {last}" for name in tensors if name not in expected]
    for name, one in expected.items():
        other = tensors.get(name, one)
        if (other.dtype, other.shape) != (one.dtype, one.shape):
            differences.append(f"{name} is {_described(other)} in {path}, {_described(one)} in {last}")
    if differences:
        listed = "; ".join(differences[:_MOST_DIFFERENCES]) + "; ..." * (len(differences) > _MOST_DIFFERENCES)
        what = f"the files do not hold the same tensors: {listed}"
        raise StateMismatchError(what, differences=tuple(differences))


def _described(tensor: TensorInfo) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
