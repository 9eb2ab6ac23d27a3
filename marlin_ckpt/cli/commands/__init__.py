"""The commands, by what they do: `run/` trains, `look/` and `check/` read, `change/` writes or removes files.

Each module has the function that Typer makes a command of, and EXAMPLE, the last line of its help; `config`,
a group of two, has SUMMARY, the first line of the group's help, and EXAMPLES. `registry` has the names, and
imports the module of the command that is asked for.
"""
