"""What the tensors of one checkpoint take, under the names that they have in the module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats.content.contents import Contents, TensorInfo
from marlin_ckpt.formats.content.optimizers import parameter_names
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.operations import one
from marlin_ckpt.operations.report.values import Size
from marlin_ckpt.operations.selection import module_alone, module_state, within

_Group = Literal["module", "optimizer", "other"]


def sizes(path: str, manifest: Manifest | None) -> tuple[Size, ...]:
    """The tensors of a checkpoint, in its order; none of one that cannot be read.

    Args:
        path: of it.
        manifest: of it.
    """
    try:
        contents = one.read(path)
    except MarlinError:
        return ()
    module = {tensor.name: name for name, tensor in module_tensors(contents).items()}
    parameters = parameter_names(contents.root, manifest.optimizers if manifest else {})
    seen: set[tuple[str, str, int]] = set()
    found = []
    for tensor in contents.tensors:
        group, name = _named(tensor, module, parameters)
        place = (tensor.file, tensor.storage, tensor.offset)
        shares = bool(tensor.storage) and place in seen
        seen.add(place)
        size_bytes = 0 if shares else tensor.size_bytes
        found.append(
            Size(name=name, group=group, dtype=tensor.dtype, shape=tensor.shape, size_bytes=size_bytes)
        )
    return tuple(found)


def module_tensors(contents: Contents) -> dict[str, TensorInfo]:
    """The tensors of the module's state, by their names in it."""
    state = module_state(contents)
    found = module_alone(contents).tensors
    return {
        inner: tensor
        for tensor in found
        if (inner := within(tensor.name, state)) is not None and (state or tensor.in_state)
    }


def _named(
    tensor: TensorInfo, module: Mapping[str, str], parameters: Mapping[str, str]
) -> tuple[_Group, str]:
    if tensor.name in module:
        return "module", module[tensor.name]
    above, _, last = tensor.name.rpartition(".")
    if above in parameters:
        return "optimizer", f"{parameters[above]}: {last}"
    parts = tensor.name.replace("[", ".").split(".")
    return ("optimizer" if any(part.startswith("optimizer") for part in parts) else "other"), tensor.name
