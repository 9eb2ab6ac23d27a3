"""What a checkpointer does before the first step of a run: it looks for room, or makes it."""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator

from torch.optim import Optimizer

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.checkpointer.run_saves import RunSaves
from marlin_ckpt.directory import lease, leftovers, needed_space
from marlin_ckpt.directory.history import removals
from marlin_ckpt.directory.needed_space import Size
from marlin_ckpt.directory.remote.reaching import layout_in
from marlin_ckpt.distributed.failures import told_by_main
from marlin_ckpt.saving import predicted_size
from marlin_ckpt.saving.job import Form
from marlin_ckpt.saving.sharing import decide
from marlin_ckpt.saving.writing.choosing import check as check_pickled
from marlin_ckpt.storage.local.cloning import block_bytes
from marlin_ckpt.storage.local.publishing import existing_and_missing
from marlin_ckpt.storage.paths import absolute
from marlin_ckpt.urls import is_url


def empty(args: DefaultCheckpointerArguments, run_id: str, logger: logging.Logger) -> None:
    """Removes the files of `save_dir` that have the extension.

    Raises:
        DirectoryInUseError: another run saves there.
    """
    if args.load_dir and absolute(args.load_dir) == absolute(args.save_dir):
        logger.warning("Nothing will be left to load: load_dir is save_dir, which is emptied.")
    with lease.held_where_used([os.fspath(args.save_dir)], run_id):
        gone = leftovers.delete_existing(os.fspath(args.save_dir), args.file_ext, logger)
        removals.went(gone, "overwrite", run_id)


def check(
    args: DefaultCheckpointerArguments,
    saves: RunSaves,
    state: Checkpoint,
    optimizers: Iterable[Optimizer],
    indices: int,
) -> None:
    """Raises if a state cannot be saved, or if there is no room; see `DefaultCheckpointer.check_space`.

    Args:
        args: the checkpointer's.
        saves: of the run.
        state: as there.
        optimizers: as there.
        indices: as there.
    """
    saves.meet(args)
    crew, payload = saves.engine.crew, state.payload()
    crew.check_shared(args.save_dir)
    if args.on_save_error == "raise":
        crew.done(lambda: check_pickled(payload))
    if not args.check_space:
        return
    optimizers = [*optimizers]
    sizes: list[float] = [predicted_size.predicted_bytes(payload, optimizers)]
    sizes.append(predicted_size.changing_bytes(payload, optimizers))
    if saves.engine.form(payload, layout_in(args)) is not Form.FILE:  # each rank has a part of it
        sizes = crew.here.total(*sizes)
    whole, changing = map(int, sizes)
    size = Size(whole, whole - changing, decide.most_copies)

    def check_room() -> None:
        needed_space.check(args, size if _shares(args) else Size(size.whole), indices, saves.lineage.run_id)

    told_by_main(crew.here, check_room)


def _shares(args: DefaultCheckpointerArguments) -> bool:
    """Whether what does not change is shared."""
    if not args.share_unchanged or is_url(args.save_dir):
        return False
    return block_bytes(existing_and_missing(args.save_dir)[0]) is not None


@contextlib.contextmanager
def leased(args: DefaultCheckpointerArguments, run_id: str) -> Iterator[lease.Lease]:
    """Holds the lease of `save_dir`, and in an object store that of `model_state_save_dir`, too.

    Only its holder knows there which uploads were left by a run that has died, and ends those of one that
    wakes up late. On a disk what writes says itself whether it is alive.

    Raises:
        DirectoryInUseError, StorageError: as `lease.held`.
    """
    models = args.model_state_save_dir
    beside = lease.held(models, run_id) if is_url(models) else contextlib.nullcontext()
    with lease.held(os.fspath(args.save_dir), run_id) as held, beside:
        yield held
