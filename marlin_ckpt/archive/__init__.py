"""Inside one file."""
