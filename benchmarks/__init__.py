"""Times saving, verifying, restoring and finding, beside the disk's own speed and other packages.

`python -m benchmarks --help` lists the groups; `__main__` runs them, `report` writes the figures down and
`chart` draws them, with `drawing`. `faults` counts what faults do to checkpoints; see there.

- Groups: `saving`, `stalling` (how long asynchronous saves hold a loop up), `slowing` (how much longer steps
  take beside a save), `verifying`, `restoring`, `folders` (of other tools), `discovery` (`latest` and
  the search for checkpoints), `ranks` (what two ranks do together), `planning` (what rank 0 of many does),
  `remote` (to an S3 server and from it).
- Other packages: `peers` save while the caller waits, `behind` while training goes on, `remote_ways` to S3.
- What they share: `states` that are saved, training `loops`, `interleaved` timing, and `files`, which empties
  the page cache of a file and so on, `memory`. `crew` keeps ranks alive that do what they are told, with a
  `sharded_state` or a `sharded_loop`.
"""
