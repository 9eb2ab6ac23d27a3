"""Tensors that a file holds quantized.

- `finding` finds them, by the names and dtypes of their parts.
- `unpacking` works out the values that they stand for, and imports numpy.
"""
