"""Files in a local directory: written whole and durable or not at all, and removed without following links.

- `store`: a directory as a store, opened once; everything in it is reached from there, by `descent`.
- `files`: opening regular files without waiting, and reading them.
- `publishing`: a file under its final name, atomically; directories.
- `staging`: a folder that is filled under a temporary name, and then appears whole.
- `temporary`: the files on the way there, their names, and whether the run that writes one still lives.
- `writer`: chooses the way of a file's pieces to the disk.
- `direct`: pieces that go past the page cache; `threads`: what writes several of them at a time.
- `cloning`: bytes on the disk that several files share.
- `system_calls`: O_DIRECT, space set aside, writeback.
- `trees`: folders, removed with all in them. `moving`: files from one directory to another, over nothing.
- `descent`: goes about a directory tree by descriptors, never through a link; the access of what is made
  there.
- `abilities`: what the file system of a directory can do, tried there; `mounts`: what it is, and what is
  free there, also of files that were replaced.
"""
