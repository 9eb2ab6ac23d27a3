"""What one checkpoint is made of: how it is encoded, what it holds, and whether it is intact.

Asked by everything above:
    format: which format a file has, by its structure, or what it is instead of a checkpoint.
    registry: one object for each format, which can inspect and verify a file of it.
    layouts: the same for folders that are one checkpoint as a whole.
    inspection: what a checkpoint says of itself without its data being read; `list` and retention use it.
    verification: reads a whole checkpoint and compares every checksum; `verify` uses it.
    verdicts: the values that these return.
    manifest: our own JSON record inside a file.
    statistics: another one, which says of each tensor what its values are like.
    digests: another one, which says of large records what they are equal to in other files.
    placed: where these records lie in a file.
    shared: what a file shares with others by them.
    times: as the manifest and the history have them.
    budget: limits on the time and memory that reading the metadata of an untrusted file may take.

The formats:
    zip: the container of `torch.save` and of ours.
    legacy: the files of torch before 1.6.
    bare: pickles without a container.
    safetensors: the files of Hugging Face's safetensors.
    pickle: the pickle in torch files, read without torch and without running any of it.
    shards: the files that the ranks write of a sharded checkpoint.
    torch: the same with torch, from a live state to a file and back.

What they hold:
    content: the tree of names, values and tensors in a file.
    values: the values of its tensors, as numpy arrays.
"""
