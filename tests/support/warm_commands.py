"""`python` and `marlin-ckpt` for a shell, forked from a process that has imported torch; see warm.py.

Each is a small script that asks for the process, hands on its arguments, environment, streams and signals,
and ends as the process does. Only SIGKILL cannot be handed on; commands that are killed run without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support import warm

_SCRIPT = """#!{python} -IS
import json, os, signal, socket, struct, sys
arguments = {before!r} + sys.argv[1:]
request = dict(
    arguments=arguments, directory=os.getcwd(), environment=dict(os.environ), descriptors=[0, 1, 2],
    is_interruptible=True, is_session=False, is_torn_down=False, umask=0o22,
)
answers, answering = os.pipe()
forks = socket.socket(fileno={forks})
socket.send_fds(forks, [json.dumps(request).encode()], [answering, 0, 1, 2])
forks.detach()
os.close(answering)
(pid,) = struct.unpack("i", os.read(answers, 4))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = os.waitstatus_to_exitcode(*struct.unpack("i", os.read(answers, 4)))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
_MAIN = "import sys; sys.argv[0] = 'marlin-ckpt'; from marlin_ckpt.cli.main import main; sys.exit(main())"


def make(directory: Path) -> int:
    """Writes the two scripts into a directory; returns the descriptor that they have to inherit."""
    forks = warm.server(()).fileno()
    for name, before in {"python": [], "marlin-ckpt": ["-c", _MAIN]}.items():
        script = directory / name
        script.write_text(_SCRIPT.format(python=sys.executable, before=before, forks=forks))
        script.chmod(0o755)
    return forks
