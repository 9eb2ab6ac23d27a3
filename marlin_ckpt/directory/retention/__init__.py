"""Retention: which checkpoints are kept, decided by the rules of `marlin_ckpt.keep`, each with its reasons.

- `decide`: the decision, a pure function of what is known of the checkpoints, the rules and the time.
- `survey`: what is known of each: whether it counts, its time and metrics, whether it is intact.
- `plan`: both put together for a directory, the newest one proven before any other goes; a plan is carried
  out by `marlin_ckpt.directory.removing`.
- `pruning`: applies rules once, and says what became of each checkpoint.
- `in_run`: does so after each save of a run, and when the disk is full.
"""
