"""One shard of a sharded checkpoint: the file that one rank writes.

A shard is a zip of stored records, named by their numbers. Each is a complete file of `torch.save`: of one
tensor, whose data starts at a multiple of 64 bytes in the shard, or of one value, padded to a rounded length.
So torch's Distributed Checkpoint reads them, and the places of all follow from what is known before a byte is
written. The last record says which save the shard is of, and has a CRC32 for each MiB of each item.

Where unchanged data is to be shared, that of large tensors starts at a multiple of the file system's block,
and a record with its digests stands in front of the last one.

- `nesting`: a nested state and the flat names of what is in it.
- `items`: the values: what a shard is made of, and where each of it is.
- `slots`: the rounded lengths of values, and how a value is padded.
- `planning`: `plan_shard` says where everything will be, and how long the file will be.
- `writer`: `write_shard` writes one into a `Target`.
- `trailer`: the last record, to bytes and from bytes.
- `reader`: `read_shard` reads that record of a file, `read_range` bytes of an item, and compares their CRCs.
"""
