"""The file or folder of weights that `export` or `average` wrote."""

from collections.abc import Sequence
from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.text import count, size, some
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.escaping import escape
from marlin_ckpt.operations.export import Exported


def show(done: Exported) -> None:
    """Prints what it holds, and which tensors and values it leaves out."""
    for name, number in sorted(done.became_infinite.items()):
        values = f"{count(number, 'value')} of {escape(name)}"
        output.talk(f"warning: {values} became infinite: too large for the dtype")
    if done.left_out:
        tensors = f"{count(len(done.left_out), 'tensor')} ({some(done.left_out)})"
        output.talk(f"left out, without the prefix: {tensors}")
    if done.values_left_out:
        output.talk(f"left out: {count(done.values_left_out, 'value')} besides the tensors")
    if done.copied:
        output.talk(f"copied: {some(done.copied)}")
    state = escape(done.state) or "the whole state"
    tensors = count(done.tensors - len(done.shared), "tensor")
    shards = f", {count(len(done.shards), 'file')} of weights" * bool(done.shards)
    output.talk(f"wrote {escape(done.path)}: {state}, {tensors}, {size(done.size_bytes)}{shards}")
    if done.shared:
        pairs = some([f"{name} is {first}" for name, first in sorted(done.shared.items())])
        output.talk(f"tied weights, written once: {pairs}")


def document(paths: Sequence[str], done: Exported) -> dict[str, Any]:
    """The document of `export --json` and `average --json`.

    Args:
        paths: the checkpoints that the weights were read from.
        done: what was written.
    """
    return {
        "paths": paths,
        "output": done.path,
        "state": done.state or None,
        **facts(done, "tensors", "size_bytes", "shared", "left_out", "values_left_out", "became_infinite"),
        **facts(done, "shards", "copied"),
    }
