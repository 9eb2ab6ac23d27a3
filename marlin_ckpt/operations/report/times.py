"""Writes times as manifests and histories have them."""

import datetime


def iso(seconds: float) -> str:
    """A time in UTC, ISO 8601 to the millisecond; "" beyond the year 9999, which some file systems hold.

    Args:
        seconds: since 1970.
    """
    try:
        when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
