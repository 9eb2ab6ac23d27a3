"""Files in a local directory: written whole and durable or not at all, and removed without following links.

- `publishing`: a file under its final name, atomically; directories; opening files for reading.
- `temporary`: the files on the way there, their names, and whether the run that writes one still lives.
- `writer`: the one writer. It copies content into pieces of memory, sums it, and chooses the way to the disk.
- `direct`: pieces that go past the page cache; `threads`: what writes several of them at a time.
- `system_calls`: O_DIRECT, space set aside, writeback.
- `descent`: walks down a tree by descriptors.
"""
