"""`marlin-ckpt init`."""

from typing import Annotated

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.options import Json, argument, flag, option

EXAMPLE = "Example: marlin-ckpt init run.yaml --module my_file.py:MyModule"


def init(
    path: Annotated[
        str, argument("[PATH]", "The new YAML file; - is standard output.", on_disk=True)
    ] = "run.yaml",
    module: Annotated[
        str,
        option(
            "--module", "MODULE", "What to train: text, my_package.my_file:MyModule or my_file.py:MyModule."
        ),
    ] = "text",
    force: Annotated[bool, flag("--force", "Replace the file if it exists.")] = False,
    json: Json = False,
) -> None:
    """Write a YAML file for train to begin with.

    Its comments say what each key is for. A class of your own is read and not run: its arguments are in the
    file, with their defaults and annotations. Beside the file the JSON Schema is written that its first line
    names, for editors that complete and check YAML.
    """
    from marlin_ckpt.cli.views.configuration import starter as view
    from marlin_ckpt.operations.texts import starter as operation

    to_stdout = path == operation.STANDARD_OUTPUT
    if to_stdout and json:
        raise typer.BadParameter(
            "standard output is for the YAML file or for the document of --json, not both"
        )
    made = operation.starter(path, module)
    if to_stdout:
        output.data(made.text.removesuffix("\n"))
    written = () if to_stdout else operation.write(made, force=force)
    output.result(json, lambda: view.document(made, written), lambda: view.show(made, written))
