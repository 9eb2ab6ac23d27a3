"""Loads states from files, and restores live modules, optimizers and tensors from them.

load        Loader: finds the newest intact checkpoint, or the one that is named, and loads it
payload     what a checkpoint consists of, and what a file holds if it is none
restoring   Restoration: compares a state with live objects, then hands it to them
live        what live objects do with the states that they are given
tensors     compares saved tensors with live ones, and counts what a conversion loses
prefixes    finds a prefix that explains why names differ
optimizers  compares the saved state of an optimizer with a live one
"""
