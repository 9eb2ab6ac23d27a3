"""The folders of other tools, for the adapters to these.

numbered      those that have a number in their names: the newest that is intact, and which go
accelerate    those of Accelerate: their names, and what has to be in them
transformers  those of the Trainer of Transformers: the same
"""
