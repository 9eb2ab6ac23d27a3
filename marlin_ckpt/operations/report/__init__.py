"""The data of `marlin-ckpt report`: what a directory of checkpoints was and is, without torch.

- `values`: all that a report says; in `course` its parts that are about time: runs, checkpoints, metrics.
- `gathering`: makes the report of a directory, or of one file, with the help of the others.
- `finding`: the checkpoints of a directory, and its history; `merging`: one point for each from both.
- `starts`: the processes of each run, and what happened in them.
- `keeping`: what rules of retention would do; `best`: the best checkpoints by each metric.
- `sizes`: of the tensors of one checkpoint.
- `figures`: statistics of tensors, from files, our cache or the data; `movement`: what follows from them.
- `banners`: what to know first, with the command to type next.
"""
