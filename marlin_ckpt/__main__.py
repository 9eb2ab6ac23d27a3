"""Begins the command: `marlin-ckpt`, which is `python -m marlin_ckpt` too."""

import contextlib
import gc
import os
import signal
import sys
from types import FrameType

_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
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
    from marlin_ckpt.cli import sparing  # noqa: PLC0415 - here, where Ctrl-C is looked after

    sparing.import_typer()
    from marlin_ckpt.cli.main import main as run  # noqa: PLC0415 - as above

    gc.freeze()
    gc.enable()
    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


def _end(_number: int, _frame: FrameType | None) -> None:
    """Ends the process at once: nothing has begun yet that would have to be undone."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted: nothing was done\n")
        if "--json" in sys.argv:
            os.write(1, _DOCUMENT)
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
