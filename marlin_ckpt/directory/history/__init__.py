"""What happened in the runs of a directory: starts, resumes, metrics, saves, removals, signals, ends.

- `events`: what can happen, as values; `lines`: these as lines of JSON, and back.
- `recorder`: notes events of a run, and writes them with its saves.
- `journal`: the file that has them; a store that cannot append would have an object for each batch of lines,
  behind the same two functions.
- `reading`: all of them again, of whatever run.
- `removals`: what is written of checkpoints that went, or came back.

Retention removes a file with its metrics; this is what remains of it.
"""
