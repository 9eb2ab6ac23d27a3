"""Trains a module, saves on the way, and goes on from a checkpoint as if the run had never stopped.

module      ModuleInterface: what users implement
trainer     Trainer: the loop over epochs
backend     TrainerBackend, and SingleProcess, which runs the steps of an epoch
mixed_precision  SingleProcessAmp, which runs them with automatic mixed precision
stepping    makes optimizers and schedulers; refuses what cannot be stepped
states      hands loaded states to the module, the trainer and the backend
saves       Saves: what has been saved and is durable; saves and stops when a signal asks for it, at all ranks
preemption  the signals
run_events  reports to the checkpointer what happens, for the history of the run
observer    TrainerObserver: who follows the progress, such as the command line
setting     device, seeds and determinism, before the first step
sizes       Figures: batch sizes, samplers and numbers of steps, which a subclass of Trainer may decide
outputs     collects what steps return
workers     the worker processes of data loaders: their seeds and signals
build       makes a trainer from a configuration
parallel/   what the ranks of a run do together: DDP, FSDP, their batches, outputs and checkpoints
resume/     what makes a resumed run exact
proof/      prove-resume: compares a run that is killed and resumed with one that is not
toys/       small modules for trying things out
"""
