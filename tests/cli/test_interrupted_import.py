"""Ctrl-C while Python still imports the command's modules, as from a slow disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.support.documents import faults
from tests.support.folders import REPOSITORY

BEGUN = "importing\n"
STUB = f"import os, signal\nos.write(2, {BEGUN.encode()!r})\nwhile True:\n    signal.pause()\n"
ENTRIES = {
    "module": ["-m", "marlin_ckpt"],
    "script": ["-c", "import sys; from marlin_ckpt.__main__ import main; sys.exit(main())"],
}


@pytest.fixture
def interrupted(tmp_path):
    """Interrupts the command as it imports Typer, which takes for ever; gives what it ends with."""
    (tmp_path / "typer.py").write_text(STUB)

    def run(*arguments: str) -> tuple[int, str, str]:
        variables = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "PATH": ""}
        with subprocess.Popen(
            [sys.executable, *arguments],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stderr is not None
            assert child.stderr.readline() == BEGUN
            child.send_signal(signal.SIGINT)
            out, talk = child.communicate(timeout=60)
        return child.returncode, out, talk

    return run


@pytest.mark.parametrize("entry", ENTRIES)
def test_ctrl_c_during_an_import_exits_130_with_one_line(interrupted, entry):
    assert interrupted(*ENTRIES[entry], "list", ".") == (130, "", "interrupted: nothing was done\n")


def test_with_json_it_prints_a_document_too(interrupted):
    code, out, _ = interrupted(*ENTRIES["module"], "list", ".", "--json")
    document = json.loads(out)
    assert (code, faults(document), document["error"]["exit_code"]) == (130, [], 130)


def test_a_process_that_was_started_to_ignore_ctrl_c_goes_on_doing_so():
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from marlin_ckpt.__main__ import main\n"
        "sys.argv = ['marlin-ckpt', '--version']\n"
        "main()\n"
        "print(int(signal.getsignal(signal.SIGINT)))\n"
    )
    variables = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], env=variables, stdout=subprocess.PIPE, check=True)
    assert int(done.stdout.split()[-1]) == signal.SIG_IGN
