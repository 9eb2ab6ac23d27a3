"""Saves states to files: before the call returns, or in the background while training goes on.

saver           save and Saver: any object, under any name
engine          Engine: one save at a time, of either kind; here a save begins
job             Job: a save that was asked for
lineage         what the files of a run say of it in their manifests
recording       Recording: what the saves of a run write into the history of its directory
states          turns modules, optimizers and the like into their states
plain           turns values that weights_only refuses into plain ones
replacing       copies a structure in which such values are replaced
about           in what setting something is written
writing         what a save writes: a file, or shards, alone or with other ranks
sharing         finds what earlier files hold already, so that it is not written again
copying         copies a state while training goes on
turn            a lock that neither another thread nor a signal handler gets past
background      the thread that finishes a save
afterwards      removals and links that wait until a save is durable
closing         waits for it at the end of a `with` statement
pace            what saves have cost, and when the next one is due
predicted_size  how large a checkpoint will be once its optimizers have stepped
"""
