"""The JSON Schemas of the documents that commands print with `--json`: files named after the commands.

`layout` writes these documents.
"""

import os

DIRECTORY = os.path.dirname(__file__)
_END = ".schema.json"


def names() -> list[str]:
    """What there is a schema of, sorted: the commands, and `error` for a command line without a command."""
    return sorted(name.removesuffix(_END) for name in os.listdir(DIRECTORY) if name.endswith(_END))


def text(name: str) -> str:
    """The schema of a command's document, as its file has it.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    with open(os.path.join(DIRECTORY, name + _END), encoding="utf-8") as file:
        return file.read()
