"""Makes a trainer from a configuration."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from marlin_ckpt.arguments import (
    ImportedModuleArguments,
    SpiralArguments,
    TextArguments,
)
from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.checkpointer.default import DefaultCheckpointer
from marlin_ckpt.config import Config
from marlin_ckpt.directory import notes
from marlin_ckpt.directory.newest import is_passed_over
from marlin_ckpt.distributed.failures import together
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import ConfigError, Fault, MarlinError, drop_frames
from marlin_ckpt.operations import launched
from marlin_ckpt.saving import about
from marlin_ckpt.training.module import ModuleInterface
from marlin_ckpt.training.observer import TrainerObserver
from marlin_ckpt.training.parallel import joining
from marlin_ckpt.training.toys.spiral import Spiral
from marlin_ckpt.training.toys.text import Text
from marlin_ckpt.training.trainer import Trainer


class _Announcing(DefaultCheckpointer):
    """Calls a function before it reads a checkpoint, and one where that turns out to be bad.

    Its history has the module's arguments in the digest of the configuration, and what was passed over before
    it was told what to read.
    """

    def __init__(
        self,
        config: Config,
        before_load: Callable[[], None],
        finds_another: Callable[[MarlinError], bool],
        passed_over: Callable[[], Mapping[str, str]],
        ranks: Ranks,
    ) -> None:
        super().__init__(config.checkpointer)
        self._ranks = ranks
        self._module, self._passed_over = about.lasting(config.module), passed_over
        self._before_load = before_load
        self._finds_another = finds_another

    def load(self, into: Checkpoint | None = None) -> Checkpoint:
        """Loads as `DefaultCheckpointer` does."""
        while True:
            self._before_load()
            try:
                loaded = together(self._ranks, lambda: super(_Announcing, self).load(into))
            except MarlinError as error:
                if not (self.args.resume_from and is_passed_over(error) and self._finds_another(error)):
                    raise
                drop_frames(error)
            else:
                self._saves.recording.passes_over(self._passed_over())
                return loaded

    def on_run_event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Writes what happens as `DefaultCheckpointer` does."""
        if kind == "started":
            facts = {**facts, "config": {**facts["config"], "module": self._module}}
            if (launch := launched.launch()) is not None and self.args.checkpoint:
                notes.note_launch(os.fspath(self.args.save_dir), launch.id, self.run_id)
        super().on_run_event(kind, facts)


def build_trainer(
    config: Config,
    *,
    observer: TrainerObserver | None = None,
    before_load: Callable[[], None] = lambda: None,
    finds_another: Callable[[MarlinError], bool] = lambda _: False,
    passed_over: Callable[[], Mapping[str, str]] = dict,
) -> Trainer:
    """Makes the module, the checkpointer and the trainer, which loads what it continues from.

    Args:
        config: the whole configuration.
        observer: follows the trainer's progress.
        before_load: called right before a checkpoint's data is read.
        finds_another: called where those of `resume_from` are bad; whether that names another one by now.
        passed_over: the paths of newer ones than that, with the reasons.

    Raises:
        ConfigError: the module cannot be made.
        Whatever `Trainer` raises.
    """
    # Everything that can fail comes before the checkpointer, which may delete what an earlier run has left.
    ranks, _ = joining.join(config.trainer)
    joining.seed_module(config.trainer, ranks)
    module = _build_module(config.module)
    checkpointer = _Announcing(config, before_load, finds_another, passed_over, ranks)
    return Trainer(module, config.trainer, checkpointer=checkpointer, observer=observer)


_TOYS: dict[type, Callable[[Any], ModuleInterface]] = {TextArguments: Text, SpiralArguments: Spiral}


def _build_module(args: TextArguments | SpiralArguments | ImportedModuleArguments) -> ModuleInterface:
    if not isinstance(args, ImportedModuleArguments):
        return _TOYS[type(args)](args)
    kind = _import(args.name)
    if args.args and kind.__init__ is torch.nn.Module.__init__:
        message = f"do not fit {args.name}: unexpected keyword argument {', '.join(map(repr, args.args))}"
        raise ConfigError([Fault("module.args", message)])
    try:
        return kind(**args.args)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # from inside the module's own code
        raise ConfigError([Fault("module.args", f"do not fit {args.name}: {error}")]) from error


def _import(name: str) -> type[ModuleInterface]:
    path, _, attribute = name.partition(":")
    # An installed command has its own folder at the head of sys.path, not the one that it is called in.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        kind = getattr(importlib.import_module(path), attribute, None)
    except (ImportError, SyntaxError) as error:
        raise ConfigError([Fault("module.name", f"cannot import {path}: {error}")]) from error
    if not (isinstance(kind, type) and issubclass(kind, ModuleInterface)):
        message = f"{path} has no {attribute}" if kind is None else f"{name} is no ModuleInterface"
        raise ConfigError([Fault("module.name", message)])
    return kind
