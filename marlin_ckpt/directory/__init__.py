"""A directory of checkpoints: what is in it, who may write to it, and what goes from it when. Without torch.

- `catalog`: finds checkpoints; the only discovery. `walk`: goes through a store for it, folder by folder.
- `latest`: orders checkpoints by their names alone, ours and other tools'.
- `others`: what other tools have there: the newest of theirs, what a listing leaves out.
- `search`: the checkpoints of one prefix in order.
- `newest`: the newest checkpoint that is good, whatever good means to the caller.
- `runs`: the small file that says that several runs have saved in a directory; `neighbours`: which, by
  the manifests, and which saved last.
- `retention`: which checkpoints are kept, and the removal of the others.
- `removing`: plans of what goes, for `clean` and for a new run, and the carrying out of every plan.
- `transaction`: a folder of the user's files that appears in it whole, or not at all.
- `trash`: what `clean --to-trash` moved, brought back or removed for good.
- `leftovers`: what a checkpointer removes of earlier runs, and logs.
- `history`: what happened in its runs, which outlives the checkpoints.
- `needed_space`: whether the disk has room for what a run will keep.
- `own`: the only place that opens our own folder, `.marlin-ckpt`; in it `lease` (one run at a time saves) and
  `notes` (how long saves took, which checkpoints runs failed to start from) keep their files.
- `leasing`: what leases on disks and in stores have in common; `remote`: our own folder in an object store.
"""
