"""Writes the weights of a checkpoint to a file that other tools read. Without torch."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from marlin_ckpt.errors import ArgumentsError, Fault, NotACheckpointError, UnsavableStateError
from marlin_ckpt.formats.content.contents import Contents, TensorInfo
from marlin_ckpt.formats.values import dtypes, rounding
from marlin_ckpt.formats.values.arrays import Array
from marlin_ckpt.formats.values.checked import Checked
from marlin_ckpt.formats.values.draft import Draft
from marlin_ckpt.naming import Kind
from marlin_ckpt.operations import selection
from marlin_ckpt.operations.packed.finding import Quantized, quantized
from marlin_ckpt.operations.packed.unpacking import unpack
from marlin_ckpt.operations.weights_file import Output, WeightsFolder

_MOST_NAMES = 3
BARE = "tensor"  # the name of a tensor that is all that its file holds


@dataclass(frozen=True, slots=True)
class Wanted:
    """The choice of tensors to write, their new names and dtype.

    Attributes:
        state: the name of the state; None for the module's.
        prefix: removed from the names; tensors whose names do not begin with it are left out.
        dtype: torch's name of the dtype that floating-point tensors are rounded to; None leaves theirs.
        is_dequantized: whether quantized tensors are replaced by the values that they stand for.
    """

    state: str | None = None
    prefix: str = ""
    dtype: str | None = None
    is_dequantized: bool = False

    @classmethod
    def of(cls, state: str | None, prefix: str, dtype: str | None, *, is_dequantized: bool = False) -> Self:
        """Reads the options of a user; the dtype is `bf16`, `fp16`, `fp32` or None.

        Raises:
            ArgumentsError: it is another dtype.
        """
        if dtype is not None and dtype not in rounding.SHORT_NAMES:
            expected = ", ".join(rounding.SHORT_NAMES)
            raise ArgumentsError([Fault("dtype", f"expected one of {expected}, not {dtype}")])
        return cls(state, prefix, None if dtype is None else rounding.SHORT_NAMES[dtype], is_dequantized)


@dataclass(slots=True)
class Exported:
    """The report on a file of weights that was written.

    Attributes:
        path: the new file.
        state: the name of the state that was written; "" for the whole of a bare state dict.
        tensors: how many names of tensors the new file has.
        size_bytes: of their elements; tensors with several names count once.
        shared: each further name of a tensor, with its first name.
        left_out: names of tensors that do not begin with the prefix.
        values_left_out: how many other values the state has.
        became_infinite: how many finite values became infinite in the new dtype, by the tensor's name.
        shards: the files of a folder that have the tensors.
        copied: the files of the checkpoint's folder that were copied into the new one.
    """

    path: str
    state: str
    tensors: int
    size_bytes: int
    shared: dict[str, str]
    left_out: tuple[str, ...]
    values_left_out: int
    became_infinite: dict[str, int] = field(default_factory=dict)
    shards: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selected:
    """The wanted tensors of one file.

    Attributes:
        state: the name of the state that holds them.
        tensors: by their new names, in the file's order.
        left_out: names of tensors that do not begin with the prefix.
        packed: those of the tensors that are quantized.
    """

    state: str
    tensors: dict[str, TensorInfo]
    left_out: tuple[str, ...]
    packed: dict[str, Quantized] = field(default_factory=dict)


def select(contents: Contents, wanted: Wanted) -> Selected:
    """Finds the wanted tensors of a file.

    Raises:
        MarlinError: there is no such state.
        NotACheckpointError: nothing in it is a tensor.
        UnsavableStateError: no name begins with the prefix, two tensors get one name, or one is not plain or
            is a part of a larger one.
    """
    if wanted.state is None:
        contents = selection.module_alone(contents)
    state = selection.module_state(contents) if wanted.state is None else wanted.state
    _refuse_parts(contents, state, wanted.prefix)
    packed = {name: one for name, one in quantized(contents, state).items() if name.startswith(wanted.prefix)}
    for name, few in packed.items():
        if not wanted.is_dequantized:
            hint = "--dequantize writes the values that it stands for"
            raise UnsavableStateError(f"{name} is quantized: {few.scheme}", contents.path, hint)
    parts = {part for few in packed.values() for part in few.names}
    listed = selection.weights(selection.tensors_of(contents, state), lambda found: found[1])
    found = [(name or BARE, one) for name, one in listed if name not in parts]
    if not found:
        raise NotACheckpointError("nothing in it is a tensor", contents.path)
    named = [(name, one) for name, one in found if name.startswith(wanted.prefix)]
    if not named:
        some = ", ".join(name for name, _ in found[:_MOST_NAMES]) + ", ..." * (len(found) > _MOST_NAMES)
        what = f"no tensor's name begins with {wanted.prefix}"
        raise UnsavableStateError(what, contents.path, f"there are {some}")
    tensors: dict[str, TensorInfo] = {}
    for name, one in named:
        short = name.removeprefix(wanted.prefix)
        if not short or short in tensors:
            what = f"two tensors would have the name {short}" if short else f"{name} would have no name"
            raise UnsavableStateError(what, contents.path)
        if one.partial:
            raise UnsavableStateError(f"{name} is a part of a larger tensor", contents.path, one.partial)
        tensors[short] = one
    left_out = tuple(name for name, _ in found if not name.startswith(wanted.prefix))
    packed = {(name or BARE).removeprefix(wanted.prefix): few for name, few in packed.items()}
    return Selected(state, tensors, left_out, packed)


def _refuse_parts(contents: Contents, state: str, prefix: str) -> None:
    """Refuses tensors that are not plain: what they are made of is not written in place of them."""
    for name, label in selection.unplain_of(contents, state).items():
        if name.startswith(prefix):
            hint = "load it with the package that it is of, and save it as a plain tensor"
            if label.startswith("DTensor"):
                hint = (
                    "each rank has a part: save its `full_tensor()`, or all by torch.distributed.checkpoint"
                )
            raise UnsavableStateError(f"{name} is no plain tensor: {label}", contents.path, hint)


def shared_names(files: Sequence[Mapping[str, TensorInfo]], *, in_order: bool = False) -> dict[str, str]:
    """Finds tensors that have several names in each file; returns each further name with the first one.

    Tensors that share only some of their elements are not among them: each is written whole.

    Args:
        files: the tensors of one or more files, by the same names.
        in_order: the first name is that of the first file's order; else of the names sorted.
    """
    first: dict[tuple[object, ...], str] = {}
    shared = {}
    for name in files[0] if in_order else sorted(files[0]):
        each = [tensors[name] for tensors in files]
        views = tuple((one.storage, one.offset, one.shape, one.stride, one.dtype) for one in each)
        if each[0].numel and first.setdefault(views, name) != name:
            shared[name] = first[views]
    return shared


def export(file: Checked, target: Output, wanted: Wanted) -> Exported:
    """Writes the weights of a checkpoint to a file or a folder of their own.

    Args:
        file: the checkpoint.
        target: the new file or folder.
        wanted: which of its tensors to write, their new names and dtype.

    Returns:
        the report on the new file.

    Raises:
        MarlinError, BadFileError: as `select` and `WeightsFile.write` do; nothing is written.
    """
    target.check()
    contents = file.contents
    selected = select(contents, wanted)
    file.expect(selected.tensors.values())
    unpacked = {name: unpack(file, one) for name, one in selected.packed.items()}
    selected.tensors.update({name: one.described(name) for name, one in unpacked.items()})
    file.expect(selected.tensors.values())
    done = summary(target, contents, [selected])
    drafts = []
    for name, one in selected.tensors.items():
        if name in unpacked:
            dtype = dtype_of(name, one, wanted)
            drafts.append(rounded_draft(name, one, dtype, done, unpacked[name].read))
        else:
            drafts.append(_draft(file, name, one, wanted, done))
    is_module = selected.state == selection.module_state(contents)
    about = (
        replace(contents.manifest, kind=Kind.MODEL, records=[]) if contents.manifest and is_module else None
    )
    if is_module and isinstance(target, WeightsFolder):
        target.take_configuration(file, is_dequantized=bool(selected.packed))
        done.copied = tuple(target.copied)
    done.size_bytes, done.shards = target.write(drafts, about, _metadata(contents))
    return done


def summary(target: Output, contents: Contents, each: Sequence[Selected]) -> Exported:
    """The report on a new file as far as it is known before it is written.

    Args:
        target: the new file.
        contents: of the last file that it is made of.
        each: the tensors that were selected of each of these files.
    """
    last = each[-1]
    values = selection.count_values(contents, last.state)
    # Transformers keeps the first name in the model's order, safetensors' functions the first one sorted.
    in_order = isinstance(target, WeightsFolder)
    shared = shared_names([one.tensors for one in each], in_order=in_order)
    return Exported(target.path, last.state, len(last.tensors), 0, shared, last.left_out, values)


def _draft(file: Checked, name: str, tensor: TensorInfo, wanted: Wanted, done: Exported) -> Draft:
    dtype = dtype_of(name, tensor, wanted)
    if dtype == tensor.dtype:
        return draft(name, tensor, done, functools.partial(file.bits, tensor))
    return rounded_draft(name, tensor, dtype, done, functools.partial(file.values, tensor))


def dtype_of(name: str, tensor: TensorInfo, wanted: Wanted) -> str:
    """The dtype that a tensor is written in.

    Raises:
        UnsavableStateError: its values are parts of bytes, and are to be rounded to another dtype.
    """
    if not wanted.dtype or not rounding.is_floating(tensor.dtype):
        return tensor.dtype
    if rounding.is_packed(tensor.dtype):
        what = f"{name} is {tensor.dtype}, which is not rounded to another dtype"
        raise UnsavableStateError(what, hint="leave --dtype away: then it is copied as it is")
    return wanted.dtype


def draft(name: str, tensor: TensorInfo, done: Exported, read: Callable[[], Array]) -> Draft:
    """A tensor to be written with its own dtype; `read` returns its bits, as `Checked.bits` does."""
    same_as = done.shared.get(name, "")
    return Draft(name, tensor.dtype, tensor.size_bytes, tensor.shape, same_as, lambda: _bytes_of(read()))


def rounded_draft(
    name: str, tensor: TensorInfo, dtype: str, done: Exported, read: Callable[[], Array]
) -> Draft:
    """A floating-point tensor to be written with another dtype.

    Args:
        name: in the new file.
        tensor: of the checkpoint.
        dtype: torch's name of the new one.
        done: the report, which gets the number of values that became infinite when they are rounded.
        read: returns its values, flat.
    """

    def make() -> memoryview:
        found, became_infinite = rounding.rounded(read(), dtype)
        if became_infinite:
            done.became_infinite[name] = became_infinite
        return _bytes_of(found)

    size_bytes = tensor.numel * dtypes.dtype(dtype).item_bytes
    return Draft(name, dtype, size_bytes, tensor.shape, done.shared.get(name, ""), make)


def _bytes_of(values: Array) -> memoryview:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).view(np.uint8).data


def _metadata(contents: Contents) -> dict[str, str]:
    """The metadata of a safetensors file: its origin, and the key `format` that transformers demands."""
    aliases = selection.aliases(contents)
    kept = {key: text for key, text in selection.metadata_of(contents).items() if key not in aliases}
    manifest = contents.manifest
    origin = {}
    if manifest is not None:
        origin = {"index": str(manifest.index), "run_id": manifest.run_id, "created": manifest.created}
        origin |= {f"metrics.{name}": repr(value) for name, value in manifest.metrics.items()}
    return {"format": "pt", **kept, **origin}
