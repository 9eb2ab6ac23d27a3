"""How the directories of a run are reached, where they are in an object store."""

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.storage import paths
from marlin_ckpt.urls import is_url


def reach(args: DefaultCheckpointerArguments) -> None:
    """Has all that is done by URL in this process follow `remote` of a run's arguments."""
    if args.remote is not None:
        for directory in (args.save_dir, args.model_state_save_dir, args.load_dir):
            if is_url(directory):
                paths.use(directory, args.remote)
