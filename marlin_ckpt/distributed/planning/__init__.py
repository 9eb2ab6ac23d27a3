"""Who writes what of a sharded checkpoint, and where: decided once, and used again while nothing changes.

plans           SavePlans: the plans of one saver
describing      what one rank has of a state, in a few bytes
assigning       who writes which chunk
laying_out      where everything is in the shards of all ranks
metadata_bytes  the `.metadata` that says so
value_files     a value as a file of `torch.save`
"""
