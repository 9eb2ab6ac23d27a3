"""`marlin-ckpt config`: `show` and `schema`."""

from typing import Annotated

import typer

from marlin_ckpt.cli import output, schemas
from marlin_ckpt.cli.commands.run.train import Config, Overrides
from marlin_ckpt.cli.options import Json, flag, option
from marlin_ckpt.escaping import escape

SUMMARY = "Show what a YAML file sets, and its schema."
EXAMPLES = {
    "show": "Example: marlin-ckpt config show --config configs/quickstart.yaml --set trainer.epochs=2",
    "schema": "Example: marlin-ckpt config schema -o marlin-ckpt.schema.json",
}


def show(config: Config, overrides: Overrides = None, json: Json = False) -> None:
    """Show each key that is in force, and what set it.

    Prints YAML that train reads. The comment behind a key is the line of the file that sets it, --set, or
    default.
    """
    from marlin_ckpt.cli.views.configuration import in_force as view
    from marlin_ckpt.config.in_force import settings

    found = settings(config, overrides or ())
    output.result(json, lambda: view.document(config, found), lambda: view.show(config, found))


def _known(name: str | None) -> str | None:
    if name is not None and name not in schemas.names():
        from marlin_ckpt.fields import suggestion

        known = schemas.names()
        raise typer.BadParameter(
            f"no command of that name prints a document: {name!r}"
            f"{suggestion(name, known) or '; there are ' + ', '.join(known)}"
        )
    return name


def schema(
    document: Annotated[
        str | None,
        option(
            "--document",
            "COMMAND",
            "The schema of what this command prints with --json.",
            callback=_known,
            autocompletion=schemas.names,
        ),
    ] = None,
    destination: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT", help="A new file; - is standard output.")
    ] = "-",
    force: Annotated[bool, flag("--force", "Replace the output if it exists.")] = False,
) -> None:
    """Print the JSON Schema of the YAML file.

    Editors complete and check a YAML file by it where the first line names it, as in what init writes.
    """
    from marlin_ckpt.operations.texts import starter, text_file

    text = starter.schema_text() if document is None else schemas.text(document)
    if destination == starter.STANDARD_OUTPUT:
        output.data(text.removesuffix("\n"))
        return
    text_file.write(destination, text, force=force)
    output.talk(f"wrote {escape(destination)}")
