"""What the plugin for Lightning replaces of its private parts."""

import functools
import os
import sys
from typing import Any

# A static method of ModelCheckpoint: for a moment it leaves no last.ckpt, and where saves are asynchronous
# one that leads to a file which is not there yet. A training that is killed then would begin anew.
PRIVATE = "_link_checkpoint"
_PACKAGES = (("lightning.fabric", "lightning.pytorch"), ("lightning_fabric", "pytorch_lightning"))


def adapt(plugin: type) -> None:
    """Makes whichever of Lightning's packages are imported take a plugin.

    Args:
        plugin: its class. Where a trainer has one, ModelCheckpoint sets links through its `afterwards`.
    """
    for fabric, trainer in _PACKAGES:
        if plugins := sys.modules.get(f"{fabric}.plugins"):
            plugins.CheckpointIO.register(plugin)
        callback = getattr(sys.modules.get(f"{trainer}.callbacks"), "ModelCheckpoint", None)
        theirs = getattr(callback, PRIVATE, None)
        if theirs and not hasattr(theirs, "__wrapped__"):
            link = functools.wraps(theirs)(functools.partial(_link, plugin, theirs))
            setattr(callback, PRIVATE, staticmethod(link))


def _link(plugin: type, theirs: Any, trainer: Any, filepath: str, linkpath: str) -> None:
    own = trainer.strategy.checkpoint_io
    is_folder = os.path.isdir(linkpath) and not os.path.islink(linkpath)
    if is_folder or not isinstance(own, plugin):
        theirs(trainer, filepath, linkpath)
        return
    target, path = os.path.abspath(filepath), os.path.abspath(linkpath)
    if trainer.is_global_zero and target != path:
        own.afterwards.link(target, path)  # type: ignore[attr-defined]
    trainer.strategy.barrier()
