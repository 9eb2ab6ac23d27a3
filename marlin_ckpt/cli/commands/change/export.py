"""`marlin-ckpt export`."""

from typing import Annotated

from marlin_ckpt.cli import output, stopping
from marlin_ckpt.cli.options import (
    Dtype,
    Force,
    Json,
    ShardSize,
    StripPrefix,
    argument,
    flag,
    option,
    place,
)
from marlin_ckpt.errors import ArgumentsError, Fault

ALL = "all"
EXAMPLE = "Example: marlin-ckpt export model_7.pt -o model.safetensors --dtype bf16"


def export(
    file: Annotated[str, argument("FILE", "A checkpoint: a file or a folder, or another file of tensors.")],
    destination: Annotated[
        str,
        place(
            "--output",
            "-o",
            metavar="OUT",
            text="A new file (.safetensors, .pt, .pth, .bin) or folder/; with --state all a .pt or a .dcp.",
        ),
    ],
    shard_size: ShardSize = None,
    state: Annotated[
        str | None,
        option("--state", "NAME", "The state to take, or all; else the module's."),
    ] = None,
    strip_prefix: StripPrefix = "",
    dtype: Dtype = None,
    dequantize: Annotated[bool, flag("--dequantize", "Write the values of quantized tensors.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write weights or all states to a new file.

    Checks every byte that it reads. The output gets its name only when it is whole and durable. A folder has
    shards and an index for from_pretrained, and the configuration and tokenizer of a Hugging Face folder.
    --state all makes one file of a sharded checkpoint, and a sharded one (.dcp) of a file.
    """
    stopping.writes(destination)  # before the imports, which take a while
    from marlin_ckpt.cli.views import weights_file as view
    from marlin_ckpt.operations import export as operation
    from marlin_ckpt.operations.one import opened
    from marlin_ckpt.operations.weights_file import output as output_of

    if state == ALL:
        from marlin_ckpt.operations.whole.converting import convert

        given = (shard_size, strip_prefix, dtype, dequantize)
        names = ("--shard-size", "--strip-prefix", "--dtype", "--dequantize")
        if unfit := [name for name, value in zip(names, given, strict=True) if value]:
            raise ArgumentsError([Fault(name, "is for weights alone, not for --state all") for name in unfit])
        done = convert(file, destination, force=force)
        output.result(json, lambda: view.document([file], done), lambda: view.show(done))
        return
    target = output_of(destination, shard_size, force=force)
    wanted = operation.Wanted.of(state, strip_prefix, dtype, is_dequantized=dequantize)
    with opened(file) as checked:
        done = operation.export(checked, target, wanted)
    output.result(json, lambda: view.document([file], done), lambda: view.show(done))
