"""The commands on a real terminal: a pseudo-terminal of the kernel's."""

from __future__ import annotations

import fcntl
import functools
import os
import pty
import re
import select
import struct
import sys
import termios
from pathlib import Path

import pytest

from tests.support import warm
from tests.support.folders import REPOSITORY, visible

# Takes the terminal over, so that its Ctrl-C reaches the command as it would from a shell.
_COMMAND = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
from marlin_ckpt.cli.main import main
sys.exit(main())
"""
# What rich may send: styles, and for the progress line the cursor's moves.
_STYLE = rb"\x1b\[[0-9;]*m"
_MOVE = rb"\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\x1b\[2K"
PATIENCE_S = 30
QUESTION = b"? [y/N]"


def run_on_terminal(
    directory: Path, *arguments: str | Path, columns: int = 80, answers: dict[bytes, bytes] | None = None
) -> tuple[int, bytes]:
    """Runs the command on a terminal; types the answer once the question stands there."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "PYTHONPATH": os.fspath(REPOSITORY), "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    with warm.Popen(
        [sys.executable, "-c", _COMMAND, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        cwd=directory,
        env=environment,
    ) as child:
        os.close(terminal)
        try:
            shown = _converse(master, child.pid, dict(answers or {}))
        finally:
            os.close(master)
            if sys.exc_info()[0] is not None:
                child.kill()
    return child.returncode, shown.replace(b"\r\n", b"\n")


@pytest.fixture
def on_terminal(tmp_path):
    """Runs the command on a terminal, in the test's own directory."""
    return functools.partial(run_on_terminal, tmp_path)


def _converse(master: int, pid: int, answers: dict[bytes, bytes]) -> bytes:
    shown = b""
    while select.select([master], [], [], PATIENCE_S)[0]:
        try:
            shown += os.read(master, 1 << 16)
        except OSError:  # EIO: the last process on the terminal has ended
            return shown
        for question in [one for one in answers if one in shown]:
            if question == QUESTION:
                _wait_until_it_listens(pid)
            os.write(master, answers.pop(question))
    return pytest.fail(f"nothing more was shown: {shown!r}")


def _wait_until_it_listens(pid: int) -> None:
    """Python serves a signal that comes just before it starts to read only after it has read a line."""
    status = Path(f"/proc/{pid}/stat")
    while status.read_text().rpartition(")")[2].split()[0] != "S":
        os.sched_yield()


def text_of(shown: bytes) -> str:
    return re.sub(_STYLE, b"", shown).decode()


@pytest.fixture
def directory(tmp_path) -> Path:
    directory = tmp_path / "saved"
    directory.mkdir()
    for index in (1, 2):
        (directory / f"model_{index}.pt").write_bytes(b"x" * 1500)
    return directory


def test_clean_shows_what_would_go_and_asks(on_terminal, directory):
    code, shown = on_terminal("clean", "saved", answers={QUESTION: b"y\n"})
    assert (code, os.listdir(directory)) == (0, [])
    assert shown.decode().splitlines() == [
        "saved/model_1.pt  1.5 kB",
        "saved/model_2.pt  1.5 kB",
        "Remove 2 files, 3 kB? [y/N] y",
        "removed saved/model_1.pt  1.5 kB  (extension pt)",
        "removed saved/model_2.pt  1.5 kB  (extension pt)",
        "2 files in saved, freed 3 kB",
    ]


@pytest.mark.parametrize(
    "answer", [b"n\n", b"\n", b"no\n", b"what?\nn\n", b"\x04"], ids=["n", "return", "no", "other", "Ctrl-D"]
)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["plain", "json"])
def test_any_answer_but_yes_changes_nothing(on_terminal, directory, answer, options):
    code, shown = on_terminal("clean", "saved", *options, answers={QUESTION: answer})
    assert (code, sorted(os.listdir(directory))) == (1, ["model_1.pt", "model_2.pt"])
    assert shown.endswith(b"aborted: nothing was removed\n")
    assert b"removed saved" not in shown


def test_ctrl_c_at_the_question_exits_130_and_changes_nothing(on_terminal, directory):
    code, shown = on_terminal("clean", "saved", answers={QUESTION: b"\x03"})
    assert (code, sorted(os.listdir(directory))) == (130, ["model_1.pt", "model_2.pt"])
    assert b"Traceback" not in shown


@pytest.mark.parametrize(
    ("option", "left"), [("--yes", []), ("-y", []), ("--dry-run", ["model_1.pt", "model_2.pt"])]
)
def test_nothing_is_asked_where_the_answer_is_known(on_terminal, directory, option, left):
    code, shown = on_terminal("clean", "saved", option)
    assert (code, sorted(os.listdir(directory))) == (0, left)
    assert QUESTION not in shown


def test_nothing_is_asked_where_nothing_would_go(on_terminal, tmp_path):
    (tmp_path / "empty").mkdir()
    assert on_terminal("clean", "empty") == (0, b"0 files in empty, freed 0 B\n")


def test_latest_prints_the_path_alone(on_terminal, directory):
    assert on_terminal("latest", "saved") == (0, b"saved/model_2.pt\n")


def folded_cells(table: list[str], heading: str) -> list[str]:
    """The cells of a table's last column, put together again."""
    begin = table[0].index(heading)
    cells: list[str] = []
    for line in table[1:]:
        if line[:begin].split()[:1] and line.lstrip()[:1].isdigit():
            cells.append("")
        cells[-1] += line[begin:].strip()
    return cells


@pytest.mark.parametrize("columns", [70, 80, 100, 200])
def test_the_table_fits_the_terminal_and_loses_nothing(
    on_terminal, make_checkpointer, make_checkpoint, columns
):
    prefix = "a_long_name_" * 4 + "end"
    checkpointer = make_checkpointer(file_prefix=prefix)
    for index in (3, 12):
        checkpointer.save(make_checkpoint(loss=0.5), index)
    code, shown = on_terminal("list", "checkpoints", columns=columns)
    lines = text_of(shown).splitlines()
    assert code == 0
    assert max(map(len, lines)) <= columns
    assert lines[0].split() == ["index", "kind", "size", "age", "metrics", "complete", "file"]
    assert folded_cells(lines, "file") == [f"{prefix}_3.pt", f"{prefix}_12.pt"]
    assert "\u2026" not in text_of(shown)


@pytest.mark.parametrize("columns", [40, 60])
def test_a_number_is_never_split_over_two_lines_of_the_table(on_terminal, directory, columns):
    (directory / "model_300000.pt").touch()
    code, shown = on_terminal("list", "saved", columns=columns)
    lines = text_of(shown).splitlines()
    assert (code, max(map(len, lines)) <= columns) == (0, True)
    assert re.findall(r"^ *(\d+) ", "\n".join(lines), re.MULTILINE) == ["1", "2", "300000"]
    assert "\u2026" not in text_of(shown)


EPOCHS = 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, bytes]:
    """The directory that a training on a terminal has saved to, and what it showed."""
    directory = tmp_path_factory.mktemp("trained")
    options = ["--set", "checkpointer.save_dir=saved", "--set", f"trainer.epochs={EPOCHS}"]
    command = ["train", "--config", REPOSITORY / "configs/ci.yaml", *options]
    code, shown = run_on_terminal(directory, *command, columns=120)
    assert code == 0, shown
    return directory / "saved", shown


def test_training_shows_epoch_step_loss_speed_and_last_checkpoint(trained):
    saved, shown = trained
    text = re.sub(_MOVE, b"", re.sub(_STYLE, b"", shown)).decode()
    frames = [line for line in re.split(r"[\r\n]", text) if re.match(rf"epoch \d+/{EPOCHS} ", line)]
    assert frames
    whole = rf"epoch \d+/{EPOCHS} \S+ step +\d+/15 +loss \d\.\d{{4}} +[0-9.]+ steps/s +last model_\d+\.pt"
    assert any(re.match(whole, frame) for frame in frames), frames
    assert max(map(len, frames)) <= 120
    assert shown.count(b"\x1b[?25h") == shown.count(b"\x1b[?25l") == 1
    assert len(visible(saved)) == EPOCHS


def test_the_progress_line_is_gone_at_the_end_and_the_table_stands(trained):
    after = trained[1].rpartition(b"\x1b[2K")[2]
    assert b"step" not in after.partition(b"index")[0]
    heading, *rows = text_of(after).splitlines()
    files = [row.split()[-1] for row in rows if "saved/" in row]
    assert heading.split()[-1] == "file"
    assert files == [f"saved/model_{index}.pt" for index in range(EPOCHS - len(files), EPOCHS)] != []
    assert any(re.match(f"run [0-9a-f]{{12}}: {EPOCHS} epochs, {15 * EPOCHS} steps", row) for row in rows)


def test_quiet_training_shows_nothing_on_a_terminal_either(on_terminal, repository, tmp_path, cases):
    if not cases(0, 1):
        pytest.skip("--campaign runs it")
    options = ["--quiet", "--set", "checkpointer.save_dir=saved"]
    assert on_terminal("train", "--config", repository / "configs/ci.yaml", *options) == (0, b"")
    assert len(visible(tmp_path / "saved")) == 3


def test_ctrl_c_in_training_takes_the_progress_line_away_and_exits_130(on_terminal, repository, tmp_path):
    options = ["--set", "checkpointer.save_dir=saved", "--set", "trainer.epochs=2000"]
    answers = {b"saved saved/model_3.pt": b"\x03"}
    code, shown = on_terminal("train", "--config", repository / "configs/ci.yaml", *options, answers=answers)
    end = text_of(shown.rpartition(b"\x1b[2K")[2]).splitlines()
    assert code == 130
    assert shown.count(b"\x1b[?25h") == 1
    assert re.fullmatch(r"interrupted; last checkpoint: saved/model_\d+\.pt", end[-2])
    assert end[-1] == "hint: the same command with --resume continues from it"
    assert all(re.fullmatch(r"model_\d+\.pt", name) for name in visible(tmp_path / "saved"))
    assert b"Traceback" not in shown


HOSTILE = [
    b"new\nline_1.pt", b"\x1b[31mred_2.pt", b"\x1b]52;c;ZXZpbA==\x07_3.pt", "c1\u009b31m_4.pt".encode(),
    b"raw \x9b31m_4.pt", "bidi\u202egnp\u2066_5.pt".encode(), b"[red]_6.pt", b"\xff\xfe_7.pt",
    b"tab\tdel\x7f_8.pt", "model_\u0663.pt".encode(),
]  # fmt: skip


@pytest.fixture
def hostile_directory(tmp_path) -> Path:
    directory = tmp_path / "x["
    directory.mkdir()
    for name in HOSTILE:
        Path(directory, os.fsdecode(name)).touch()
    (directory / "]_9.pt").touch()
    return directory


def assert_harmless(shown: bytes) -> str:
    """That nothing of a name acts on the terminal; returns the text."""
    # The table's heading is bold; no name above holds these two sequences.
    text = shown.replace(b"\x1b[1m", b"").replace(b"\x1b[0m", b"").decode("utf-8", "strict")
    assert [line for line in text.split("\n") if not line.isprintable()] == []
    return text


@pytest.mark.parametrize("columns", [80, 200])
def test_a_hostile_name_in_the_table_does_nothing_to_the_terminal(on_terminal, hostile_directory, columns):
    code, shown = on_terminal("list", ".", "--recursive", columns=columns)
    text = assert_harmless(shown)
    assert code == 0
    if columns == 200:
        for name in (r"\x1b[31mred_2.pt", r"new\nline_1.pt", "[red]_6.pt", "]_9.pt", r"\xff\xfe_7.pt"):
            assert f"  x[/{name}\n" in re.sub(" +\n", "\n", text)


@pytest.mark.parametrize("name", [name for name in HOSTILE if not name.startswith(b"model")])
def test_latest_escapes_a_hostile_name_on_a_terminal(on_terminal, hostile_directory, name):
    prefix = os.fsdecode(name).rpartition("_")[0]
    code, shown = on_terminal("latest", ".", f"--prefix={prefix}")
    text = assert_harmless(shown)
    assert (code, len(text.splitlines())) == (0, 1)
    assert text.startswith("./x[/")


def test_the_question_and_the_answer_of_clean_are_harmless(on_terminal, hostile_directory):
    code, shown = on_terminal("clean", "x[", answers={QUESTION: b"y\n"})
    text = assert_harmless(shown)
    assert (code, os.listdir(hostile_directory)) == (0, [])
    assert text.count(r"\x1b[31mred_2.pt") == 2
    assert "x[/]_9.pt  0 B\n" in text
