"""Imports Typer without modules of which nothing is asked before some seldom used function is called.

They take a sixth of the time that an empty program of Typer's takes to start.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

# Each is imported as `import NAME` where only functions use it. Imported by: urllib.parse; shutil; Typer, to
# start editors and completion; inspect and linecache; Typer's completion.
_SELDOM = ("ipaddress", "bz2", "lzma", "subprocess", "tokenize", "shellingham")


class _Later(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import system
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def import_typer() -> None:
    """Imports Typer; whoever imports one of the modules afterwards gets it itself."""
    standing = [_Later(name) for name in _SELDOM if name not in sys.modules]
    sys.modules.update((one.__name__, one) for one in standing)
    try:
        import typer.main  # noqa: F401
    finally:
        for one in standing:
            if sys.modules.get(one.__name__) is one:
                del sys.modules[one.__name__]
