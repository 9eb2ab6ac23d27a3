"""Loads states from files, and restores live modules, optimizers and tensors from them.

anything    load: the public function, for any file and any structure of live objects
load        Loader: finds the newest intact checkpoint, or the one that is named, and loads it
together    read_together: one file or a sharded checkpoint, at one rank or several
sharded     reads a sharded checkpoint into a state
placing     Placing: which tensors that state gets, each after the live one that it is for
distributing  whole tensors of a file as parts of live DTensors
payload     what a checkpoint consists of, and what a file holds if it is none
arranging   how a file arranges its states, and the live objects in their places
restoring   Restoration: compares a state with live objects, then hands it to them
lenient     the same of what fits alone, with a report on the rest
live        what live objects do with the states that they are given
words       the sentences about states that do not fit
tensors     compares saved tensors with live ones, and counts what a conversion loses
prefixes    finds a prefix that explains why names differ
optimizers  compares the saved state of an optimizer with a live one
"""
