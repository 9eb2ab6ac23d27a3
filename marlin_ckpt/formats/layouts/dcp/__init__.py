"""Folders of torch's Distributed Checkpoint (DCP), as torchtitan, FSDP, Lightning, Megatron-Core write.

- `layout`: recognises such a folder, and which files beside the shards belong to it.
- `metadata`: reads `.metadata`, a pickle, without running any of it.
- `columns`: reads that of marlin-ckpt as columns of numbers.
- `pieces`: what it says of a tensor, of its pieces, and of where they are.
- `saved`: what the metadata of a folder, one file or one for each rank, says is in which shard.
- `tree`: what a folder holds, as one tree.
- `checking`: reads every shard and compares the checksums of the items in it.
- `verdict`: the verdict on a folder, from all of these.
- `faults`: what is wrong with the metadata itself: ranges that overlap, pieces that do not make up a tensor.
- `writing`: the bytes of `.metadata`.
- `ours`: what is wrong in a folder whose shards marlin-ckpt wrote.
- `hugging_face`: shards in safetensors, as DCP's storage for Hugging Face writes them.
"""
