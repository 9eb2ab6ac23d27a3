"""`marlin-ckpt salvage`."""

from typing import Annotated

from marlin_ckpt.cli import output, stopping
from marlin_ckpt.cli.options import Json, argument, place
from marlin_ckpt.errors import BadFileError

EXAMPLE = "Example: marlin-ckpt salvage model_7.pt -o rescued.pt; exits 3 when anything is lost."


def salvage(
    file: Annotated[str, argument("FILE", "A truncated or damaged file, or a sharded checkpoint.")],
    destination: Annotated[
        str,
        place("--output", "-o", metavar="OUT", text="The new file, for what is intact."),
    ],
    json: Json = False,
) -> int:
    """Rescue what is intact in a damaged file.

    Writes the intact tensors to a new file and lists the others as lost. A tensor is intact when its checksum
    holds; nothing is guessed or filled in.
    """
    stopping.writes(destination)  # before the imports, which take a while
    from marlin_ckpt.cli.views import salvage as view
    from marlin_ckpt.directory import catalog
    from marlin_ckpt.operations.rescue import salvage as operation
    from marlin_ckpt.operations.rescue import shards
    from marlin_ckpt.storage.paths import is_folder

    folder = catalog.entry(file) if is_folder(file) else None
    found: operation.Salvage | shards.SalvagedFolder
    if folder is not None and folder.layout in shards.LAYOUTS:
        found = shards.salvage_folder(folder, destination)
    else:
        found = operation.salvage(file, destination)
    output.result(json, lambda: view.document(found, destination), lambda: view.show(found, destination))
    return BadFileError.exit_code if found.lost or found.doubts else 0
