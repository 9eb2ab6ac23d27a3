"""What each rank writes of a sharded checkpoint.

shard       Shard: the shard of this rank, from the live tensors or from a copy of them
durable     a file of a folder that has not yet its name
statistics  those of the tensors
"""
