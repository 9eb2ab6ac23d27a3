"""A whole checkpoint as one file or as a sharded one, whichever it was, without torch.

- `converting`: what `export --state all` does.
- `stubs`: the values of pickles, to be taken apart and put together again under other names.
- `to_folder`: writes the state of a file as a sharded checkpoint of one shard.
- `to_file`: writes a sharded checkpoint as one file.
"""
