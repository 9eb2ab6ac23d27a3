"""Goes on with a run that torchrun starts again (`--max-restarts`), without being asked to resume."""

import os

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.directory import notes
from marlin_ckpt.formats import inspection
from marlin_ckpt.operations.launched import Launch
from marlin_ckpt.operations.starting import checkpoints_of


def resumes(args: DefaultCheckpointerArguments, launch: Launch | None) -> bool:
    """Whether a start goes on with what an earlier one of the same launch has saved.

    Where that has saved nothing, the run begins as the first start has begun.

    Args:
        args: the run's.
        launch: that the start belongs to; None: it was not torchrun that started it.
    """
    if launch is None or not launch.restarts:
        return False
    run_id = notes.run_of_launch(os.fspath(args.save_dir), launch.id)
    return run_id is not None and any(
        (found := inspection.inspect(one).manifest) is not None and found.run_id == run_id
        for one in reversed(checkpoints_of(args))
    )


def begins(args: DefaultCheckpointerArguments, launch: Launch | None) -> None:
    """Forgets the runs of earlier launches, whose names may be the same, at the first start of one.

    Args:
        args: the run's, which has the lease of `save_dir`.
        launch: that the start belongs to.
    """
    if launch is not None and not launch.restarts:
        notes.forget_launch(os.fspath(args.save_dir))
