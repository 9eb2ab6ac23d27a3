"""The YAML file that `marlin-ckpt init` writes, and the JSON Schema beside it."""

import contextlib
import json
import os
import re
from dataclasses import dataclass

from marlin_ckpt.config import classes, template
from marlin_ckpt.config.schema import is_schema, schema
from marlin_ckpt.config.tree import read_text
from marlin_ckpt.errors import ConfigError
from marlin_ckpt.operations.texts import text_file
from marlin_ckpt.storage.local.files import doing

STANDARD_OUTPUT = "-"  # in place of a path
SCHEMA_NAME = "marlin-ckpt.schema.json"
TEXT = "text"
_A_TEXT = "input.txt"  # where there is no text yet
_FOLDERS = ("", "configs", "data")  # that are looked through for one
# What tools read, and lawyers.
_NO_DATA = re.compile(
    r"(.*[-_.])?(requirements|constraints|licen[cs]es?|copying|notice|readme|changelog|cmakelists|robots)\b|\.",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Starter:
    """A file that is to be written.

    Attributes:
        path: the file; `-` is standard output.
        text: its content.
        missing: what must be there, or be set in it, before it trains: keys, and files as paths.
        root: the directory that Python must search for the module; "" where it does.
    """

    path: str
    text: str
    missing: tuple[str, ...]
    root: str = ""

    @property
    def schema_path(self) -> str:
        """The path of the schema, which is beside the file."""
        place = "" if self.path == STANDARD_OUTPUT else os.path.dirname(self.path)
        return os.path.join(place, SCHEMA_NAME)


def starter(path: str, module: str) -> Starter:
    """Makes a file.

    Args:
        path: that it is to have.
        module: `text`, or the user's class, as `classes.read` takes it.

    Raises:
        ConfigError: there is no such class, or it cannot be read.
    """
    named = "run.yaml" if path == STANDARD_OUTPUT else path
    if module == TEXT:
        found = _text_here()
        text = template.text(named, SCHEMA_NAME, files=[found or _A_TEXT], is_found=bool(found))
        return Starter(path, text, () if found else (_A_TEXT,))
    own = classes.read(module)
    missing = tuple(f"module.args.{one.name}" for one in own.arguments if one.default is None)
    return Starter(path, template.text(named, SCHEMA_NAME, own=own), missing, own.root)


def _text_here() -> str:
    """The largest text to train on, those in the usual folders first; "" where there is none."""
    found = []
    for folder in _FOLDERS:
        with contextlib.suppress(OSError), os.scandir(folder or os.curdir) as entries:
            found += [
                (bool(folder), one.stat().st_size, os.path.join(folder, one.name))
                for one in entries
                if one.name.endswith(".txt") and one.name.isprintable() and _is_data(one)
            ]
    return max(found, default=(False, 0, ""))[2]


def _is_data(one: os.DirEntry[str]) -> bool:
    return not _NO_DATA.match(one.name) and one.is_file()


def schema_text() -> str:
    """The JSON Schema of the YAML, as a file has it."""
    return json.dumps(schema(), indent=2) + "\n"


def write(made: Starter, *, force: bool) -> tuple[str, ...]:
    """Writes a file, and its schema where that is not there yet.

    Args:
        made: the file.
        force: whether files that are there are replaced; a schema of another version is in any case.

    Returns:
        the paths of what was written.

    Raises:
        StorageError: a file cannot be written, or is there.
    """
    text_file.check(made.path, force=force)
    with doing("cannot write", made.path):  # of which a person knows, and not of the schema
        os.stat(os.path.join(os.path.dirname(made.path), os.curdir))
    text = schema_text()
    known = _known_text(made.schema_path)
    written = [] if known == text else [made.schema_path]
    if written:
        text_file.write(made.schema_path, text, force=force or _is_ours(known))
    text_file.write(made.path, made.text, force=force)
    return (*written, made.path)


def _known_text(path: str) -> str:
    with contextlib.suppress(ConfigError):
        return read_text(path)
    return ""


def _is_ours(text: str) -> bool:
    with contextlib.suppress(ValueError, RecursionError):
        return is_schema(json.loads(text))
    return False
