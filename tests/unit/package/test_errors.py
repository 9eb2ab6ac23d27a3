"""What the errors carry, and that they survive the way to another process."""

from __future__ import annotations

import ast
import copy
import errno
import pickle
import traceback

import pytest

from marlin_ckpt import errors
from marlin_ckpt.errors import (
    ArgumentsError,
    BadFileError,
    CheckpointNotFoundError,
    ConfigError,
    CorruptCheckpointError,
    DirectoryInUseError,
    Fault,
    MarlinError,
    NotACheckpointError,
    RankError,
    StateMismatchError,
    StorageError,
    TrainingError,
    UnknownFormatError,
    UnloadableStateError,
    UnsafeCheckpointError,
    UnsavableStateError,
)
from marlin_ckpt.escaping import get_logger

_FAULTS = [Fault("period", "expected 1 or more, not 0"), Fault("file_ext", "must not be empty", "a.yaml:3")]
EVERY_ERROR = [
    MarlinError("failed", "/tmp/x", "try again"),
    ArgumentsError(_FAULTS, "see the reference"),
    ConfigError(_FAULTS),
    StorageError("cannot write: No space left on device", "/tmp/model_1.pt", "make room", errno=errno.ENOSPC),
    UnsavableStateError("the state cannot be pickled"),
    UnloadableStateError("cannot be loaded here: No module named 'mycode'", "x.pt"),
    StateMismatchError("does not fit", "optimizer 0"),
    TrainingError("no data"),
    RankError("another rank has ended"),
    UnknownFormatError("the manifest has format 2", "x.pt", "upgrade"),
    BadFileError("bad", "a\nb.pt"),
    CorruptCheckpointError("truncated", "x[red].pt"),
    NotACheckpointError("not a checkpoint but a text file", "/tmp/x", "look again"),
    UnsafeCheckpointError("refused", "/tmp/x", "h", names=("numpy.dtype", "posix.system")),
    CheckpointNotFoundError("no such file", "/tmp/\udce9.pt"),
    DirectoryInUseError("another run saves there", "/tmp/x", holder={"pid": 7}),
]
_ids = [type(error).__name__ for error in EVERY_ERROR]


def _attributes(error: MarlinError) -> dict[str, object]:
    names = ("what", "where", "hint", "faults", "names", "errno", "exit_code", "args")
    return {name: getattr(error, name) for name in names if hasattr(error, name)} | {"text": str(error)}


def test_the_cases_above_hold_every_error_that_the_module_has():
    kinds = {one for name, one in vars(errors).items() if name.endswith("Error") and name[0] != "_"}
    assert {type(error) for error in EVERY_ERROR} == kinds


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", EVERY_ERROR, ids=_ids)
def test_an_error_that_was_pickled_comes_back_with_its_attributes(error: MarlinError, protocol: int):
    restored = pickle.loads(pickle.dumps(error, protocol))
    assert type(restored) is type(error)
    assert _attributes(restored) == _attributes(error)


@pytest.mark.parametrize("error", EVERY_ERROR, ids=_ids)
def test_an_error_that_was_copied_keeps_its_attributes(error: MarlinError):
    for restored in (copy.copy(error), copy.deepcopy(error)):
        assert _attributes(restored) == _attributes(error)


def test_a_note_added_to_an_error_survives_pickling():
    error = NotACheckpointError("not a checkpoint", "x")
    error.add_note("rank 3")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["rank 3"]


def test_a_traceback_shows_the_last_hint_below_the_message_and_other_notes_stay():
    error = NotACheckpointError("not a checkpoint", "x", "ask \x1b[31m")
    error.add_note("rank 3")
    error.hint = "git lfs pull"
    shown = traceback.format_exception_only(pickle.loads(pickle.dumps(error)))
    assert shown[-3:] == [
        "marlin_ckpt.errors.NotACheckpointError: not a checkpoint: x\n",
        "rank 3\n",
        "hint: git lfs pull\n",
    ]
    error.hint = "ask \x1b[31m"
    assert error.__notes__ == ["rank 3", r"hint: ask \x1b[31m"]
    error.hint = ""
    assert error.__notes__ == ["rank 3"]


@pytest.mark.parametrize(
    ("kind", "code", "bases"),
    [
        (MarlinError, 1, (Exception,)),
        (ArgumentsError, 2, (MarlinError, ValueError)),
        (ConfigError, 2, (MarlinError,)),
        (StorageError, 1, (MarlinError, OSError)),
        (UnsavableStateError, 1, (MarlinError,)),
        (StateMismatchError, 1, (MarlinError,)),
        (TrainingError, 1, (MarlinError,)),
        (RankError, 1, (MarlinError,)),
        (UnknownFormatError, 3, (BadFileError,)),
        (BadFileError, 3, (MarlinError,)),
        (CorruptCheckpointError, 3, (BadFileError,)),
        (NotACheckpointError, 3, (BadFileError,)),
        (UnsafeCheckpointError, 3, (BadFileError,)),
        (CheckpointNotFoundError, 4, (MarlinError, FileNotFoundError)),
    ],
)
def test_each_error_has_the_exit_code_and_the_families_that_callers_catch_by(kind, code, bases):
    assert kind.exit_code == code
    assert issubclass(kind, bases)
    assert all(issubclass(kind, base) for base in bases)


def test_the_text_is_what_and_where_and_leaves_out_where_when_there_is_none():
    assert str(CorruptCheckpointError("truncated", "/tmp/x.pt")) == "truncated: /tmp/x.pt"
    assert str(TrainingError("no data")) == "no data"


def test_the_text_of_faults_has_a_line_for_each_with_its_place():
    lines = str(ConfigError(_FAULTS)).splitlines()
    assert lines == [
        "period: expected 1 or more, not 0",
        "a.yaml:3: file_ext: must not be empty",
    ]


def test_a_storage_error_says_the_cause_and_keeps_the_number_of_the_system():
    cause = OSError(errno.ENOSPC, "No space left on device", "/some/temporary")
    error = StorageError.of("cannot write", "/tmp/model_1.pt", cause)
    with pytest.raises(OSError, match=r"cannot write: No space left on device: /tmp/model_1\.pt") as caught:
        raise error from cause
    assert caught.value.errno == errno.ENOSPC


def test_a_storage_error_of_a_cause_without_number_still_says_it():
    error = StorageError.of("cannot read", "/x", OSError("the stream is closed"))
    assert str(error) == "cannot read: the stream is closed: /x"
    assert error.errno is None


@pytest.mark.parametrize("bad", ["\x1b]0;title\x07", "\x9b31m", "\u202e", "\n", "\udce9"])
def test_no_control_character_of_a_name_is_in_an_errors_text_or_in_a_log(bad, caplog):
    error = BadFileError(f"tensor {bad} is lost", f"/tmp/{bad}.pt")
    faults = ArgumentsError([Fault("a", f"not {bad}"), Fault("b", "empty")])
    logger = get_logger("marlin_ckpt.checkpointer")
    logger.warning("%s was salvaged and lacks %s, %d bytes.", error.where, [bad], 7)
    logger.warning("Passed over: %s", error)
    texts = [str(error), *(record.getMessage() for record in caplog.records), *str(faults).split("\n")]
    assert all(text.isprintable() for text in texts)
    assert texts[1].endswith(", 7 bytes.")
    assert error.where == f"/tmp/{bad}.pt"  # as it is, for programs


def test_every_module_logs_through_a_logger_that_escapes(repository):
    modules = (repository / "marlin_ckpt").rglob("*.py")
    by_themselves = {one.name for one in modules if "getLogger(" in one.read_text()}
    by_themselves -= {"client.py"}  # which logs nothing, and quiets botocore
    assert by_themselves == {"escaping.py", "log.py"}


def test_no_error_that_led_to_one_that_is_kept_holds_the_frames_that_it_was_raised_in():
    try:
        try:
            raise KeyError("handled")
        except KeyError:
            try:
                raise OSError("the cause")
            except OSError as cause:
                first = cause
            raise MarlinError("kept") from first  # whose context is the KeyError
    except MarlinError as error:
        kept = error
    assert (kept.__cause__, type(kept.__context__)) == (first, KeyError)
    errors.drop_frames(kept)
    assert [one.__traceback__ for one in (kept, kept.__cause__, kept.__context__)] == [None] * 3


def _raises_another(function: ast.FunctionDef) -> bool:
    handlers = [one for one in ast.walk(function) if isinstance(one, ast.ExceptHandler)]
    return any(isinstance(one, ast.Raise) and one.exc for handler in handlers for one in ast.walk(handler))


def test_no_context_that_is_a_generator_raises_another_error_than_it_was_given(repository):
    """Since Python 3.12 such an error keeps the frames of its callers, and with them a whole state."""
    found = [
        f"{file.stem}.{one.name}"
        for file in (repository / "marlin_ckpt").rglob("*.py")
        for one in ast.walk(ast.parse(file.read_text()))
        if isinstance(one, ast.FunctionDef)
        and any("contextmanager" in ast.unparse(decorator) for decorator in one.decorator_list)
        and _raises_another(one)
    ]
    assert found == ["output.writing"]  # whose error ends the process


def test_a_context_hands_on_what_its_function_does_not_raise_anew():
    seen = []
    with pytest.raises(KeyError), errors.Translating(seen.append):
        raise KeyError("a")
    assert [type(one) for one in seen] == [KeyError]
    with pytest.raises(KeyboardInterrupt), errors.Translating(seen.append):  # no Exception: not its affair
        raise KeyboardInterrupt
    assert len(seen) == 1
