"""A folder of checkpoints."""
