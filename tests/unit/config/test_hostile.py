"""Files that are no configuration, by mistake or malice: exit 2 and one clear message, whatever they hold."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from marlin_ckpt.cli.main import main
from marlin_ckpt.config import read_config
from tests.support.users import unprivileged

SPIRAL = b"module: {name: spiral}\n"
_MERGE_BOMB = b"a0: &a0 {k: v}\n" + b"".join(
    b"a%d: &a%d {<<: [%s]}\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)
)
_ALIAS_BOMB = b"a0: &a0 [x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)
)


@pytest.fixture(autouse=True)
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ends a test that hangs, and keeps what a file wrongly accepted would write in the test's own folder."""

    def end(*_: object) -> None:
        raise TimeoutError("hangs")

    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 60)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]):
    """Runs `train` on a file and returns its one message."""

    def run(path: Path | str, *options: str) -> str:
        assert main(["train", "--config", str(path), *options]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (message,) = err.splitlines()
        assert message.startswith("error: ")
        assert "Traceback" not in message
        return message.removeprefix("error: ")

    return run


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        pytest.param(b"module: {name: spiral", 1, "", id="an unclosed brace"),
        pytest.param(b"module: a: b", 1, "mapping values", id="two colons"),
        pytest.param(SPIRAL + b"trainer:\n\tepochs: 3\n", 3, "tab", id="a tab"),
        pytest.param(SPIRAL + b"trainer:\n  epochs: 3\n \tdevice: x\n", 4, "tab", id="a tab after a space"),
        pytest.param(SPIRAL + b"trainer: {}\ntrainer: {}\n", 3, "twice", id="a duplicate section"),
        pytest.param(SPIRAL + b"trainer: {epochs: 1, epochs: 1}\n", 2, "twice", id="a duplicate key"),
        pytest.param(
            b"module: {name: 'a:B', args: {x: {y: 1, 'y': 2}}}", 1, "twice", id="a duplicate deep down"
        ),
        pytest.param(b"a: &a b\nmodule: *a\n", 2, "alias", id="an alias"),
        pytest.param(b"a: &a\n  b: *a\n", 2, "alias", id="an alias of itself"),
        pytest.param(_ALIAS_BOMB, 2, "alias", id="an alias bomb"),
        pytest.param(_MERGE_BOMB, 2, "alias", id="a merge-key bomb"),
        pytest.param(b"[" * 100_000, 1, "nested", id="100,000 open brackets"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, 1, "nested", id="100,000 nested lists"),
        pytest.param(b"{a: " * 60_000, 1, "nested", id="60,000 nested mappings"),
        pytest.param(b"- " * 100_000, 1, "nested", id="100,000 nested dashes"),
        pytest.param(b"? " * 100_000, 1, "nested", id="100,000 nested keys"),
        pytest.param(SPIRAL + b"\n\ntrainer: {device: \xff}\n", 4, "UTF-8", id="not UTF-8"),
        pytest.param(b"\xef\xbb\xbf\n\n\n\xff", 4, "UTF-8", id="not UTF-8 after a byte order mark"),
        pytest.param("module: {name: spiral}\n".encode("utf-16"), 1, "UTF-8", id="UTF-16"),
        pytest.param(SPIRAL + b"---\n" + SPIRAL, 2, "one document", id="several documents"),
        pytest.param(SPIRAL + b'trainer: {device: "\\U00110000"}', 2, "", id="an escape beyond Unicode"),
        pytest.param(SPIRAL + b'trainer: {device: "\\UFFFFFFFF"}', 2, "", id="an escape far beyond Unicode"),
        pytest.param(b"%YAML 1." + b"9" * 5000 + b"\n---\n" + SPIRAL, 1, "", id="a version of 5,000 digits"),
        pytest.param(b"%YAML 2.0\n---\n" + SPIRAL, 1, "", id="a version to come"),
        pytest.param(
            SPIRAL + b"trainer: {epochs: " + b"9" * 5000 + b"}", 2, "trainer.epochs", id="5,000 digits"
        ),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_its_line(data, line, reason, tmp_path, refusal):
    (tmp_path / "run.yaml").write_bytes(data)
    message = refusal(tmp_path / "run.yaml")
    assert message.startswith(f"{tmp_path}/run.yaml:{line}: ")
    assert reason in message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"# nothing\n\n", "empty", id="comments alone"),
        pytest.param(b"---\n...\n", "", id="an empty document"),
        pytest.param(b"- module\n", "a list", id="a list"),
        pytest.param(b"module", "'module'", id="a word"),
        pytest.param(b"{}", "module", id="an empty mapping"),
        pytest.param(b"\x00" * 5000, "character", id="null bytes"),
        pytest.param(SPIRAL + b"# \x1b[2J", "character", id="an escape sequence"),
        pytest.param(SPIRAL + b"trainer: {device: \x07}", "character", id="a control character"),
        pytest.param(b"# padding\n" * (1 << 20), "larger", id="10 MB"),
        pytest.param(b"[" * (10 << 20), "larger", id="10 MB of brackets"),
    ],
)
def test_a_file_without_a_configuration_in_it_is_refused(data, reason, tmp_path, refusal):
    (tmp_path / "run.yaml").write_bytes(data)
    message = refusal(tmp_path / "run.yaml")
    assert message.startswith(f"{tmp_path}/run.yaml:")
    assert reason in message


@pytest.mark.parametrize(
    "text",
    [
        "module: !!python/object/apply:os.mkdir [canary]",
        "module: !!python/object/new:os.mkdir [canary]",
        "module: !!python/object:marlin_ckpt.Trainer {name: spiral}",
        "module: {name: !!python/object/apply:os.mkdir [canary]}",
        "module: {name: 'a:B', args: {x: !!python/object/apply:os.mkdir [canary]}}",
        "module: {name: 'a:B', args: {x: !!python/name:os.mkdir ''}}",
        "module: {name: 'a:B', args: {!!python/name:os.mkdir x: 1}}",
        "module: {name: spiral}\ntrainer: {device: !!python/name:os.getcwd 'cpu'}",
        "module: {name: spiral}\ntrainer: !!python/module:os {}",
        "!!python/object/apply:os.mkdir [canary]",
        "!!map:x {module: {name: spiral}}",
    ],
)
def test_a_tag_that_names_python_is_refused_and_nothing_of_it_happens(text, tmp_path, refusal):
    (tmp_path / "run.yaml").write_text(text)
    assert str(tmp_path / "run.yaml") in refusal(tmp_path / "run.yaml")
    assert os.listdir(tmp_path) == ["run.yaml"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda path: None, "No such file", id="missing"),
        pytest.param(os.mkdir, "directory", id="a directory"),
        pytest.param(os.mkfifo, "FIFO", id="a FIFO"),
        pytest.param(lambda path: os.symlink("/dev/zero", path), "device", id="a device"),
        pytest.param(lambda path: os.symlink(path, path), "symbolic links", id="a link to itself"),
    ],
)
def test_what_is_no_file_is_refused_without_waiting_for_it(make, reason, tmp_path, refusal):
    make(tmp_path / "run.yaml")
    message = refusal(tmp_path / "run.yaml")
    assert message.startswith(f"{tmp_path}/run.yaml: ")
    assert reason in message


def test_a_file_that_may_not_be_read_is_refused_with_the_reason(public, refusal):
    path = public / "run.yaml"
    path.write_bytes(SPIRAL)
    # What the command imports late must be there before the rights to read it are given up.
    assert read_config(path).module.name == "spiral"
    path.chmod(0)
    with unprivileged():
        message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert "Permission denied" in message


@pytest.mark.parametrize(
    "name", ["a\nb.yaml", "\x1b[2J.yaml", "\x1b]52;c;eA==\x07.yaml", "\u202ea.yaml", "[red].yaml"]
)
def test_a_file_of_a_harmful_name_is_named_harmlessly(name, tmp_path, refusal):
    message = refusal(tmp_path / name)
    assert message.isprintable()
    assert "No such file" in message
    assert message.startswith(str(tmp_path))


@pytest.mark.parametrize(
    "value", ["\x1b[2J", "a\x07b", "\u202e", "[1", "*a", "!!python/name:os.mkdir x", "&a [*a]"]
)
def test_a_hostile_value_of_a_set_is_refused_and_located_by_its_key(value, tmp_path, refusal):
    (tmp_path / "run.yaml").write_bytes(SPIRAL)
    message = refusal(tmp_path / "run.yaml", "--set", f"trainer.epochs={value}")
    assert message.isprintable()
    assert message.startswith("--set trainer.epochs: ")


def test_values_with_escape_sequences_are_shown_harmlessly_in_the_message(tmp_path, refusal):
    (tmp_path / "run.yaml").write_bytes(SPIRAL + b'trainer: {backend: "\\e[31m[red]\\u202e"}')
    message = refusal(tmp_path / "run.yaml")
    assert message.isprintable()
    assert "[red]" in message
