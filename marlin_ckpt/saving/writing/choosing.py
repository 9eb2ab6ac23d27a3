"""Which form a save has, and what it writes then."""

from typing import Any

import torch
import torch.distributed as dist

from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.formats.torch.pickler import encode
from marlin_ckpt.saving.copying.owners import is_part, tensors_in
from marlin_ckpt.saving.job import Form, Job
from marlin_ckpt.saving.plain import plain
from marlin_ckpt.saving.replacing import replaced
from marlin_ckpt.saving.writing.content import Content
from marlin_ckpt.saving.writing.crew import Crew
from marlin_ckpt.saving.writing.file import FileContent
from marlin_ckpt.saving.writing.of_main import OfMain
from marlin_ckpt.saving.writing.pickles import Pickles


class Choosing:
    """Chooses what the saves of one saver write, and keeps their plans."""

    def __init__(self, crew: Crew) -> None:
        """Takes the ranks."""
        self._crew = crew
        self._plans: Any = None
        self._pickles = Pickles()

    def form(self, state: Any, layout: str = "file") -> Form:
        """The form that a state is saved in; all ranks call this.

        Args:
            state: what this rank has of it.
            layout: `auto`, `file` or `sharded`; see `DefaultCheckpointerArguments`.
        """
        if layout == "sharded":
            return Form.SHARDED
        if not self._crew.here.most(has_parts(state))[0]:
            return Form.FILE
        return Form.SHARDED if layout == "auto" else Form.GATHERED

    def content(self, job: Job, path: str) -> Content:
        """What a save writes; all ranks call this.

        Args:
            job: the save.
            path: of it, absolute where it is written in the background.

        Raises:
            UnsavableStateError: the state cannot be saved in this form.
            RankError: a rank has ended, or does not come.
        """
        crew = job.crew or self._crew
        if job.form is Form.FILE:
            if crew.is_alone:
                return FileContent(job, path, self._pickles)
            return OfMain(FileContent(job, path, self._pickles) if crew.here.is_main else None, crew)
        if job.form is Form.SHARDED:
            # These import DTensor, which takes longer than many a save.
            from marlin_ckpt.distributed.planning.plans import SavePlans  # noqa: PLC0415
            from marlin_ckpt.saving.writing.sharded import ShardedContent  # noqa: PLC0415

            self._plans = self._plans or SavePlans()
            return ShardedContent(job, path, crew, self._plans)
        from marlin_ckpt.saving.writing.gathering import GatheredContent  # noqa: PLC0415

        state = crew.done(lambda: plain(job.state) if job.makes_plain else job.state)
        return GatheredContent(job, state, path, crew)


def has_parts(state: Any) -> bool:
    """Whether a state holds a tensor of which this rank has a part."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    return any(is_part(one) for one in tensors_in(state))


def check(state: Any) -> None:
    """Pickles a state, without its tensors' data, and throws the result away.

    Raises:
        UnsavableStateError: it cannot be pickled.
    """
    encode(replaced(plain(state), is_part, lambda one: torch.empty(0) if is_part(one) else one))


def with_all_ranks(state: Any, ranks: Ranks) -> Any:
    """A state in which rank 0 has what each rank keeps of its own; see `distributed.gathering`."""
    # It imports DTensor, as above.
    from marlin_ckpt.distributed import gathering  # noqa: PLC0415

    return gathering.with_all_ranks(state, ranks)
