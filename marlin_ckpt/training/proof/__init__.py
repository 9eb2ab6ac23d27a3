"""Proves that a run which is killed and resumed is the run that was never stopped.

proof     trains twice, straight and killed and resumed, and compares what both report
findings  the kills, the first difference, and the proof
runs      starts the processes, and reads what they report
many      has torchrun start them where they are ranks of one run
child     what such a process does: trains as configured, reports each step, kills itself when it is to
hidden    what of the module changes and is in no state
"""
