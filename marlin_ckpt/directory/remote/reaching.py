"""How the directories of a run are reached, where they are in an object store."""

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.errors import ArgumentsError, Fault
from marlin_ckpt.storage import paths
from marlin_ckpt.urls import NOT_KEPT, is_url


def reach(args: DefaultCheckpointerArguments) -> None:
    """Has all that is done by URL in this process follow `remote` of a run's arguments.

    Raises:
        ArgumentsError: the run could not save there.
    """
    layout_in(args)
    if args.remote is not None:
        for directory in (args.save_dir, args.model_state_save_dir, args.load_dir):
            if is_url(directory):
                paths.use(directory, args.remote)


def layout_in(args: DefaultCheckpointerArguments) -> str:
    """`layout` as it is in `save_dir`: `auto` is `file` in an object store.

    Raises:
        ArgumentsError: it is `sharded` there.
    """
    if not is_url(args.save_dir):
        return args.layout
    if args.layout == "sharded":
        raise ArgumentsError([Fault("layout", f"sharded checkpoints {NOT_KEPT}: expected auto or file")])
    return "file"
