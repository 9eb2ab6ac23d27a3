"""Our own bookkeeping of a directory in an object store, where no file can be locked or appended to.

- `reaching`: how the stores of a run are reached.
- `objects`: the small objects of JSON beside the checkpoints.
- `lease`: one run at a time saves there, decided by conditional writes and the server's clock.
- `orphans`: the uploads that a run which has died has left.
- `sharing`: the leases that this process holds, each by one run.
- `journal`: its events, in objects of which each writer has its own.
"""
