"""Begins the command: `marlin-ckpt`, which is `python -m marlin_ckpt` too."""

import contextlib
import gc
import os
import signal
import sys
from importlib import import_module
from types import FrameType, ModuleType

_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
# Of these nothing is asked before some seldom used function is called, and they take a tenth of the time that
# a program of Typer's takes to start. Imported, as `import NAME`, by: urllib.parse; shutil; Typer, to start
# editors and for completion; inspect and linecache; Typer's completion.
_SELDOM = ("ipaddress", "bz2", "lzma", "subprocess", "tokenize", "shellingham")
_DOCUMENT = b"""{
  "schema": "marlin-ckpt/error/1",
  "error": {
    "type": "KeyboardInterrupt",
    "message": "stopped by SIGINT",
    "hint": "",
    "exit_code": 130
  }
}
"""


def main() -> int:
    """Runs the command line of the process; Ctrl-C ends it in one line, also while modules are imported.

    Returns:
        the exit code.
    """
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default:  # an exception within an import may be lost, or turned into another one
        signal.signal(signal.SIGINT, _end)
    gc.disable()  # what is imported stays, and looking through it several times takes as long as our own part
    _import_typer()
    from marlin_ckpt.cli.main import main as run  # noqa: PLC0415 - here, where Ctrl-C is looked after

    gc.freeze()
    gc.enable()
    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


class _Later(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # asked by the import system
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def _import_typer() -> None:
    """Imports Typer without what it seldom needs; whoever imports such a module afterwards gets it itself."""
    standing = [_Later(name) for name in _SELDOM if name not in sys.modules]
    sys.modules.update((one.__name__, one) for one in standing)
    try:
        import_module("typer.main")
    finally:
        for one in standing:
            if sys.modules.get(one.__name__) is one:
                del sys.modules[one.__name__]


def _end(_number: int, _frame: FrameType | None) -> None:
    """Ends the process at once: nothing has begun yet that would have to be undone."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted: nothing was done\n")
        if "--json" in sys.argv:
            os.write(1, _DOCUMENT)
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
