"""Reads what a rank needs of a sharded checkpoint, checked, and straight into its memory.

folder      Sharded: an open checkpoint, as rank 0 has found it and told it to all
index       Index: what the metadata says of each tensor and value
tensors     read_tensors, values_of: what is asked for, from all shards that have some of it
items       where the data of an item is in its shard, and which checksums it has
boxes       parts of a tensor, and which bytes of a file and of memory these are
filling     reads and checks data in parts, on several threads
scattering  copies what was read where it does not belong to one stretch of memory
"""
