"""The commands, by what they do: `run/` trains, `look/` and `check/` read, `change/` writes or removes files.

Each module has the function that Typer makes a command of, and EXAMPLE, the last line of its help.
"""
