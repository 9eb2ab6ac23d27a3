"""Events as lines: each comes back as it was, and no bytes do harm."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marlin_ckpt.directory.history import journal, reading
from marlin_ckpt.directory.history.events import KINDS, Event, Measured, Saved, SaveFailed
from marlin_ckpt.directory.history.lines import from_line, to_line
from marlin_ckpt.directory.history.recorder import History

TEXTS = st.text(max_size=20)
NUMBERS = st.floats(allow_nan=False)
BY_NAME = {
    "metrics": st.dictionaries(TEXTS, st.floats(), max_size=3),
    "versions": st.dictionaries(TEXTS, TEXTS, max_size=3),
    "passed_over": st.dictionaries(TEXTS, TEXTS, max_size=3),
    "keep": st.dictionaries(TEXTS, st.integers(0, 9) | TEXTS, max_size=3),
}
BY_TYPE = {str: TEXTS, bool: st.booleans(), int: st.integers(-1, 2**62), float: NUMBERS}


def values_of(kind: type[Event]) -> dict[str, st.SearchStrategy[Any]]:
    plain = kind()
    return {
        one.name: BY_NAME[one.name] if one.name in BY_NAME else BY_TYPE[type(getattr(plain, one.name))]
        for one in fields(kind)
    }


EVENTS = st.sampled_from(sorted(KINDS)).flatmap(lambda kind: st.builds(KINDS[kind], **values_of(KINDS[kind])))


def as_compared(event: Event | None) -> str:
    assert event is not None
    return json.dumps([type(event).__name__, event.at, event.run_id, event.facts()])


@given(EVENTS)
def test_every_event_comes_back_as_it_was(event):
    line = to_line(event)
    assert line.count(b"\n") == 1
    assert as_compared(from_line(line)) == as_compared(event)


@given(st.binary(max_size=200))
def test_bytes_are_an_event_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        from_line(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(EVENTS, st.data())
def test_an_event_with_a_value_of_any_other_kind_is_an_event_or_a_value_error(event, data):
    values = json.loads(to_line(event))
    values[data.draw(st.sampled_from(sorted(values)))] = data.draw(JSON)
    try:
        found = from_line(json.dumps(values).encode())
    except ValueError:
        return
    if found is not None:
        assert as_compared(from_line(to_line(found))) == as_compared(found)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"[]", b"null", b'{"event":"saved"}', b'{"event":1,"at":"x"}',
        b'{"event":"saved","at":1}',
        b'{"event":"saved","at":"x","index":true}', b'{"event":"saved","at":"x","index":1.5}',
        b'{"event":"saved","at":"x","metrics":{"a":"b"}}', b'{"event":"saved","at":"x","metrics":{"a":null}}',
        b'{"event":"saved","at":"x","stall_s":1e999999,"size_bytes":"1"}', b'{"event":"saved","at":"x"}{}',
        b"[" * 50_000, b'{"a":' * 30_000, b"[" * 900_000, b"\xff\xfe", b"1" * 5000,
        b'{"event":"saved","at":"x","stall_s":' + b"1" * 4000 + b"}",
    ],
    ids=lambda line: str(line[:40]),
)  # fmt: skip
def test_what_is_no_event_is_a_value_error(line):
    with pytest.raises(ValueError, match=r"."):
        from_line(line)


def test_a_kind_that_a_newer_version_writes_is_none_and_keys_that_are_not_known_are_ignored():
    assert from_line(b'{"event":"new","at":"x","run_id":"y","more":[]}') is None
    found = from_line(b'{"event":"saved","at":"x","run_id":"y","more":[],"stall_s":1}')
    assert found == Saved(at="x", run_id="y", stall_s=1.0)


def test_metrics_that_are_no_finite_numbers_come_back():
    metrics = {"a": math.inf, "b": -math.inf, "c": 1}
    found = from_line(to_line(Measured(metrics={**metrics, "d": math.nan})))
    assert isinstance(found, Measured)
    assert {name: found.metrics[name] for name in metrics} == metrics
    assert math.isnan(found.metrics["d"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.lists(EVENTS, min_size=1, max_size=5), st.data())
def test_a_file_that_is_cut_anywhere_loses_the_last_line_alone(tmp_path_factory, events, data):
    directory = tmp_path_factory.mktemp("cut")
    whole = [to_line(one) for one in events]
    at = data.draw(st.integers(0, len(b"".join(whole))))
    own = Path(directory, ".marlin-ckpt")
    own.mkdir()
    (own / "events.jsonl").write_bytes(b"".join(whole)[:at])
    left = 0
    while left < len(whole) and len(b"".join(whole[: left + 1])) <= at:
        left += 1
    past = reading.read(str(directory))
    assert (past.unread, past.newer) == (0, 0)
    assert list(map(as_compared, past.events)) == list(map(as_compared, events[:left]))
    History(str(directory)).write(SaveFailed(name="next"))
    assert len(reading.read(str(directory)).events) == left + 1


def test_lines_that_are_no_events_are_counted_and_the_others_are_read(tmp_path):
    journal.append(
        str(tmp_path),
        b"garbage\n" + to_line(Saved(name="a")) + b'{"event":"new","at":""}\n',
        is_durable=False,
    )
    past = reading.read(str(tmp_path))
    assert (past.unread, past.newer, [one.name for one in past.events]) == (1, 1, ["a"])


def test_an_event_that_is_too_long_for_a_line_is_kept_without_its_facts(tmp_path):
    History(str(tmp_path)).write(SaveFailed(run_id="r", error="x" * journal.LONGEST_LINE))
    (found,) = reading.read(str(tmp_path)).events
    assert (found.kind, found.run_id) == ("save failed", "r")
