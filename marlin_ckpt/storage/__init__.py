"""Where checkpoints are kept: what knows of names and bytes, and nothing of what they mean.

- `store`: what a place that keeps objects can do: list, look at, open, publish, move and remove them.
- `source`: an object that is open for reading.
- `target`: what an object's content is handed to while it is written.
- `memory`: such a target that keeps it in memory.
- `sums`: the lengths and CRC32s of objects that are read whole.
- `writer`: the one writer: it copies content into pieces of memory, and sums it.
- `piece_threads`: threads that write such pieces.
- `pages`: memory in huge pages, which a disk takes faster.
- `threads`: runs tasks on a few threads, and none after the first error.
- `reading`: how threads read stretches of a file, past the page cache what is not in it.
- `extents`: where a file lies on the disk, and what of it others share.
- `space`: what files take on the disk, and what several of them share there.
- `hints`: what to type instead of a path that is not there.
- `links`: a symbolic link to a file of this machine, set in one instant.
- `local`: a directory of this machine as a store; `s3`: a prefix in a bucket.
- `paths`: which of the two a path or URL is, for all that reads and writes checkpoints.

A store of another kind, for gs:// or az://, is a `Store` that passes the suite which all of them pass
(tests/unit/storage/test_store_conformance.py), a scheme in `urls`, and a choice in `paths.open_remote`. A
mirror, which saves on a disk and uploads behind, is a `Store` around two others; `paths.open_store` chooses.
"""
