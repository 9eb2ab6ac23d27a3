"""`marlin-ckpt average`."""

import contextlib
from typing import Annotated

from marlin_ckpt.cli import output, stopping
from marlin_ckpt.cli.options import (
    Dtype,
    Force,
    Json,
    Output,
    ShardSize,
    State,
    StripPrefix,
    argument,
    option,
)

EXAMPLE = "Example: marlin-ckpt average model_5.pt model_6.pt model_7.pt -o averaged.safetensors"


def average(
    files: Annotated[list[str], argument("FILES...", "Checkpoints, the newest last.")],
    destination: Output,
    shard_size: ShardSize = None,
    decay: Annotated[
        float | None,
        option("--decay", "D", "Each file weighs D times as much as the next one; else all weigh the same."),
    ] = None,
    state: State = None,
    strip_prefix: StripPrefix = "",
    dtype: Dtype = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Average the weights of several checkpoints.

    Computes the average in float64 and writes it to a new file, as export does. Integer tensors are taken
    from the last file.
    """
    stopping.writes(destination)  # before the imports, which take a while
    from marlin_ckpt.cli.views import weights_file as view
    from marlin_ckpt.operations import average as operation
    from marlin_ckpt.operations.export import Wanted
    from marlin_ckpt.operations.one import opened
    from marlin_ckpt.operations.weights_file import output as output_of

    target = output_of(destination, shard_size, force=force)
    wanted = Wanted.of(state, strip_prefix, dtype)
    with contextlib.ExitStack() as stack:
        checked = [stack.enter_context(opened(file)) for file in files]
        done = operation.average(checked, target, wanted, decay)
    output.result(json, lambda: view.document(files, done), lambda: view.show(done))
