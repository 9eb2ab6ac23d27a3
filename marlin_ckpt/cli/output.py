"""The only place that prints: data to stdout, talk to stderr; and asks, where a person is there to answer."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TextIO, cast

from marlin_ckpt.cli import widths
from marlin_ckpt.errors import StorageError
from marlin_ckpt.escaping import escape


@contextlib.contextmanager
def prepared(command: str) -> Iterator[None]:
    """Makes printing of any text possible: whatever the terminal's encoding, and where a stream is closed.

    A closed stream is the null device meanwhile, and its descriptor stays it: else the next file that is
    opened would take its number, and what others print would go into that file. At the end, what is left is
    flushed as far as it can still be written.

    Args:
        command: the name of the command that prints.
    """
    with contextlib.ExitStack() as stack:
        documents.command, documents.is_printed, documents.so_far = command, False, dict
        documents.when_stopped = None
        for fd, name in enumerate(("stdin", "stdout", "stderr")):
            stream = getattr(sys, name)
            if stream is None:
                _open_if_closed(fd)
                stream = stack.enter_context(open(os.devnull, "r+", errors="backslashreplace"))
                setattr(sys, name, stream)
                stack.callback(setattr, sys, name, None)
            if name == "stdin":
                continue
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
            stack.callback(_end, stream)
        yield


def _end(stream: TextIO) -> None:
    try:
        stream.flush()
    except (OSError, ValueError):
        _silence(stream)


def _open_if_closed(fd: int) -> None:
    with contextlib.suppress(OSError):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)  # noqa: FBT003


class ReaderGoneError(Exception):
    """The process that reads stdout has ended (`| head`), so that nothing more can be printed."""


def data(text: str) -> None:
    """Prints a line of data to stdout.

    Raises:
        ReaderGoneError: nobody reads it any more.
        StorageError: it cannot be written.
    """
    with writing() as stream:
        stream.write(text + "\n")


def sentence(text: str) -> None:
    """Prints a line of data that a terminal breaks at blanks; raises as `data` does."""
    data(widths.fitted(text, sys.stdout))


@contextlib.contextmanager
def writing() -> Iterator[TextIO]:
    """Lets a block write to stdout, which it is given; raises as `data` does."""
    stream, talked = sys.stdout, sys.stderr
    try:
        yield stream
    except SystemExit as error:
        if sys.stdout is stream:
            raise
        sys.stdout, sys.stderr = stream, talked  # Typer changes both where the reader of its help has gone
        _silence(stream)
        raise ReaderGoneError from error
    except BrokenPipeError as error:
        _silence(stream)
        raise ReaderGoneError from error
    except OSError as error:
        _silence(stream)
        raise StorageError.of("cannot write the output", "stdout", error) from error


def _silence(stream: TextIO) -> None:
    # Python flushes its streams at exit, and would print an error and change the exit code.
    with contextlib.suppress(OSError, ValueError):
        fd, null = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, fd)
        os.close(null)


def stdout_for_data_alone() -> AbstractContextManager[object]:
    """Sends to stderr what a user's code prints meanwhile, so that scripts read only our data from stdout."""
    return contextlib.redirect_stdout(talk_stream())


def flush() -> None:
    """Flushes stdout; raises as `data` does."""
    with writing() as stream:
        stream.flush()


class _Talk:
    """A stream whose failures matter to nobody: no run ends because nobody hears of it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def talk_stream() -> TextIO:
    """The stderr of now as a stream that raises nothing where it cannot be written to."""
    return cast("TextIO", _Talk(sys.stderr))


def talk(text: str) -> None:
    """Prints a line of talk to stderr, as far as that can be written to; a terminal breaks it at blanks."""
    talk_stream().write(widths.fitted(text, sys.stderr) + "\n")


def is_terminal() -> bool:
    """Whether stderr is a terminal, so that a person reads the talk."""
    return sys.stderr.isatty()


def is_on_terminal() -> bool:
    """Whether stdout is a terminal, so that a person reads the data."""
    return sys.stdout.isatty()


def can_encode(text: str) -> bool:
    """Whether stdout has the characters of a text, so that they need no escape."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def path(text: str) -> None:
    """Prints a path: escaped on a terminal, byte for byte into a pipe, so that a script can open it."""
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None or is_on_terminal():
        data(escape(text))
        return
    with writing() as stream:
        stream.flush()
        binary.write(os.fsencode(text) + b"\n")


class Documents:
    """What is known of the document of a command that has not ended yet.

    Attributes:
        command: its name.
        is_printed: whether it has been printed.
        so_far: makes what it holds where the command ends before it prints it.
        when_stopped: says what was done where a signal ends the command; None where there is nothing to say.
    """

    command = ""
    is_printed = False
    so_far: Callable[[], dict[str, Any]] = dict
    when_stopped: Callable[[], str] | None = None


documents = Documents()


def document(value: dict[str, Any], many: str = "") -> None:
    """Prints the command's JSON document.

    Args:
        value: what it holds beside the name of its schema.
        many: the key of a long list, each item of which has one line.
    """
    from marlin_ckpt.cli.schemas.layout import line_of, text_of

    schema = {"schema": f"marlin-ckpt/{documents.command}/1"}
    items = value.get(many) or ()
    text = text_of(schema | (value | {many: []} if items else value))
    if items:
        lines = ",\n    ".join(map(line_of, items))
        text = text.replace(f'"{many}": []', f'"{many}": [\n    {lines}\n  ]', 1)
    documents.is_printed = True
    data(text)


def so_far(document_of: Callable[[], dict[str, Any]]) -> None:
    """Takes what makes the document of a command that is about to end with an error."""
    documents.so_far = document_of


def result(as_json: bool, document_of: Callable[[], dict[str, Any]], show: Callable[[], None]) -> None:
    """Prints the result of a command.

    Args:
        as_json: whether it is printed as a document.
        document_of: makes the document.
        show: prints the result for people.
    """
    if as_json:
        document(document_of())
    else:
        show()


def bytes_bar(total: int, *, quiet: bool) -> AbstractContextManager[Callable[[int], None]]:
    """A bar of bytes on a terminal, and nothing elsewhere.

    Args:
        total: how many bytes there are in all.
        quiet: show nothing.

    Returns:
        a context whose value is a function to be called with each further number of bytes.
    """
    if quiet or not is_terminal():
        return contextlib.nullcontext(lambda _: None)
    from marlin_ckpt.cli import terminal

    return terminal.bytes_bar(total)


def can_ask() -> bool:
    """Whether a person is there to answer a question."""
    return sys.stdin.isatty()


def ask(question: str) -> bool:
    """Asks a question on stderr that only `y` or `yes` answers with yes.

    Typer's own question would take Ctrl-C for a no.
    """
    stream = talk_stream()
    stream.write(f"{question} [y/N] ")
    stream.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
