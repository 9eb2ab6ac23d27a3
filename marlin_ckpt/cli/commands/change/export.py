"""`marlin-ckpt export`."""

from typing import Annotated

from marlin_ckpt.cli import output, stopping
from marlin_ckpt.cli.options import Dtype, Force, Json, Output, ShardSize, State, StripPrefix, argument, flag

EXAMPLE = "Example: marlin-ckpt export model_7.pt -o model.safetensors --dtype bf16"


def export(
    file: Annotated[str, argument("FILE", "A checkpoint: a file or a folder, or another file of tensors.")],
    destination: Output,
    shard_size: ShardSize = None,
    state: State = None,
    strip_prefix: StripPrefix = "",
    dtype: Dtype = None,
    dequantize: Annotated[bool, flag("--dequantize", "Write the values of quantized tensors.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write weights for other tools to read.

    Checks every byte that it reads. The output gets its name only when it is whole and durable. A folder has
    shards and an index for from_pretrained, and the configuration and tokenizer of a Hugging Face folder.
    """
    stopping.writes(destination)  # before the imports, which take a while
    from marlin_ckpt.cli.views import weights_file as view
    from marlin_ckpt.operations import export as operation
    from marlin_ckpt.operations.one import opened
    from marlin_ckpt.operations.weights_file import output as output_of

    target = output_of(destination, shard_size, force=force)
    wanted = operation.Wanted.of(state, strip_prefix, dtype, is_dequantized=dequantize)
    with opened(file) as checked:
        done = operation.export(checked, target, wanted)
    output.result(json, lambda: view.document([file], done), lambda: view.show(done))
