"""The command `marlin-ckpt`.

- `main` runs the command line and turns what it raises into an exit code; `app` is that line as Typer has it;
  `help` lists the commands in sections; `completion` shows and installs that of a shell.
- `commands/` has a module for each command: it reads the options, calls one function of the library and hands
  the result to a view.
- `ranks/` is about a command that many processes run together.
- `views/` has a module for each noun: what people read of it, and its document for `--json`.
- `schemas/` has the JSON Schema of each of these documents, as files; its `layout` writes documents.
- `output` is the only place that prints and asks; `terminal` draws bars with rich, `table` fits tables
  into a line's width; `problems` has what is printed of an error, a signal or an exit, `stopping`
  what a stopped command has done; `log` shows the library's log.
- `widths` has how wide a text is on a terminal, and breaks its lines; `text` writes sizes, times, counts and
  names as a person reads them, and makes names harmless; `colour` has the colours of a terminal.
- `options` makes options and has those that several commands share; `rules` has the rules of retention.
"""
