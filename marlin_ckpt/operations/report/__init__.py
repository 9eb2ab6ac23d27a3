"""The data of `marlin-ckpt report`: what a directory of checkpoints was and is, without torch.

- `values`: all that a report says; in `course` its parts that tell of time: runs, checkpoints, metrics.
- `gathering`: makes the report of a directory, or of one file, from manifests and history.
"""
