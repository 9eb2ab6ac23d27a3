"""Times as manifests and histories have them."""

import datetime


def now() -> str:
    """The time in UTC, ISO 8601 to the millisecond."""
    return _text(datetime.datetime.now(datetime.UTC))


def iso(seconds: float) -> str:
    """A time in UTC, ISO 8601 to the millisecond; "" beyond the year 9999, which some file systems hold.

    Args:
        seconds: since 1970.
    """
    try:
        return _text(datetime.datetime.fromtimestamp(seconds, datetime.UTC))
    except (ValueError, OverflowError, OSError):
        return ""


def _text(when: datetime.datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(text: str) -> float | None:
    """A time in ISO 8601, in UTC where it names no zone, in seconds since 1970; None if it is not a time."""
    try:
        when = datetime.datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
