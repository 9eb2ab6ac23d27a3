"""Proves that a run which is killed and resumed is the run that was never stopped.

proof  starts both runs, each in a process of its own, and compares what they report
child  what such a process does: trains, reports each step, and kills itself when it is to
"""
