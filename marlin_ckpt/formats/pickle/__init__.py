"""Pickles, read without importing or running what they name.

reader        runs the opcodes within a budget; stubs and formats/torch/unpickling are its clients
keys          what hashing the keys of dicts takes
stubs         the client that makes a stub of each object; writes stubs again
views         which stubs are tensors, and of what shape and dtype
storages      which tensors lie in which record, for verify and salvage
labels        keys, names and values in few characters
permissions   what weights_only says to the names that a pickle imports

What reading may take is counted in formats/budget.
"""
