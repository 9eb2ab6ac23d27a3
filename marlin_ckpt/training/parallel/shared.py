"""A checkpointer as all ranks of a run call it: rank 0 does what it does, and all learn of it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch.optim import Optimizer

from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.checkpointer.abstract import AbstractCheckpointer
from marlin_ckpt.checkpointer.default import DefaultCheckpointer
from marlin_ckpt.checkpointer.hooks import TrainerHooks, hooks_of
from marlin_ckpt.distributed.failures import of_all, together
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import StateMismatchError, TrainingError
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving.writing.choosing import has_parts
from marlin_ckpt.training.parallel import gathering, own

_HOW_TO_SAVE_PARTS = (
    "derive it from DefaultCheckpointer; or have its saves_together return True, and all ranks save their "
    'parts, as marlin_ckpt.save(state.payload(), "model_3.dcp") does; or train with backend: ddp'
)


def shared(checkpointer: AbstractCheckpointer, ranks: Ranks) -> AbstractCheckpointer:
    """A checkpointer as the ranks of a run call it; the checkpointer itself where there is one rank.

    Args:
        checkpointer: the trainer's.
        ranks: of the run.
    """
    if ranks.world_size == 1:
        if isinstance(checkpointer, DefaultCheckpointer):
            checkpointer.is_alone = True
        return checkpointer
    if isinstance(checkpointer, DefaultCheckpointer):
        checkpointer.is_shared = True
    reads_into = "into" in inspect.signature(checkpointer.load).parameters
    return (_ReadingInto if reads_into else SharedCheckpointer)(checkpointer, ranks)


class SharedCheckpointer(AbstractCheckpointer, TrainerHooks):
    """Each rank calls the same methods in the same order; rank 0 alone writes, and all have its results.

    What fails at one rank is raised at all. The states that differ between ranks are gathered for the file.
    """

    def __init__(self, checkpointer: AbstractCheckpointer, ranks: Ranks) -> None:
        """Takes the checkpointer of this rank, and the ranks."""
        self._inner, self._hooks, self._ranks = checkpointer, hooks_of(checkpointer), ranks

    def _of_main(self, work: Any) -> Any:
        """What the work returns at rank 0, at all ranks."""
        return self._ranks.told(together(self._ranks, work if self._ranks.is_main else lambda: None))

    def _of_all(self, work: Any) -> Any:
        """What the work, which all do, returns at rank 0, at all ranks."""
        return self._ranks.told(together(self._ranks, work))

    def _all_save(self, state: Any, parts: Any) -> bool:
        """Whether all ranks save a state.

        Raises:
            TrainingError: rank 0 would save it, and has only a part of it.
        """
        if self._hooks.saves_together(state):
            return True
        if has_parts(parts):
            what = f"{type(self._inner).__name__} saves at rank 0 alone, which has a part of each tensor"
            raise of_all(TrainingError(what, hint=_HOW_TO_SAVE_PARTS))
        return False

    def save(self, checkpoint_state: Checkpoint, index: int, force: bool = False) -> str | None:
        """Saves the states of rank 0, with what differs of the others; the path is the same at all."""
        if self._all_save(checkpoint_state, checkpoint_state.payload()):
            return self._of_all(lambda: self._inner.save(checkpoint_state, index, force))  # type: ignore[no-any-return]
        state = checkpoint_state.trainer_state
        sent = self._ranks.gathered(gathering.packed(own.of_ranks(state)))
        if sent is not None:
            parts = [gathering.unpacked(one) for one in sent]
            checkpoint_state = replace(checkpoint_state, trainer_state=own.with_ranks(state, parts))
        return self._of_main(lambda: self._inner.save(checkpoint_state, index, force))  # type: ignore[no-any-return]

    def save_model(self, model_state: Any, index: int) -> str | None:
        """Saves the module's state of rank 0."""
        of = self._of_all if self._all_save(model_state, model_state) else self._of_main
        return of(lambda: self._inner.save_model(model_state, index))  # type: ignore[no-any-return]

    def load(self) -> Checkpoint:
        """Loads at each rank what rank 0 loads."""
        return self._load()

    def _load(self, **options: Any) -> Checkpoint:
        load: Any = self._inner.load
        loaded: Checkpoint = together(self._ranks, lambda: load(**options))
        path = getattr(self._inner, "loaded_path", None)
        of_main = self._ranks.told(path)

        def compare() -> None:
            if path != of_main:
                what = f"this rank has loaded {path or 'nothing'}, and rank 0 {of_main or 'nothing'}"
                raise StateMismatchError(what, hint="all ranks need to see the same directory")

        together(self._ranks, compare)
        return loaded

    def is_due(self, index: int) -> bool:
        """As rank 0 decides."""
        return bool(self._of_main(lambda: self._hooks.is_due(index)))

    def usual_save_s(self) -> float | None:
        """As rank 0 knows it; None at the others."""
        return self._hooks.usual_save_s() if self._ranks.is_main else None

    def check_space(self, state: Checkpoint, optimizers: Iterable[Optimizer], indices: int) -> None:
        """Raises at all ranks what it raises at rank 0."""
        of = self._of_all if self._all_save(state, state.payload()) else self._of_main
        of(lambda: self._hooks.check_space(state, optimizers, indices))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Enters the context at rank 0; whether that succeeds is known to all."""
        with contextlib.ExitStack() as stack:
            self._of_main(lambda: bool(stack.enter_context(self._hooks.running())))
            yield

    def register(self, *optimizers: Optimizer) -> None:
        """Names the optimizers at each rank."""
        self._hooks.register(*optimizers)

    def wait(self) -> None:
        """Waits until everything that was saved is durable."""
        self._of_all(self._hooks.wait)

    def take_reports(self) -> list[SaveReport] | None:
        """The reports of rank 0."""
        return self._of_main(self._hooks.take_reports)  # type: ignore[no-any-return]

    def on_run_event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Reports what happens at rank 0."""
        if self._ranks.is_main:
            self._hooks.on_run_event(kind, facts)

    def overhead(self) -> float | None:
        """As rank 0 knows it; None at the others."""
        return self._hooks.overhead() if self._ranks.is_main else None


class _ReadingInto(SharedCheckpointer):
    """One whose checkpointer reads into live objects, for which a trainer looks at the signature."""

    def load(self, into: Checkpoint | None = None) -> Checkpoint:
        """Loads at each rank what rank 0 loads."""
        return self._load(into=into)
