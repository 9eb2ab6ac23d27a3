"""What a trainer does, for the history of the directory that it saves into."""

from collections.abc import Mapping
from typing import Any

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.directory.history.events import Ended, Measured, Signalled, Started
from marlin_ckpt.saving import about
from marlin_ckpt.saving.recording import Recording


def record(
    recording: Recording, args: DefaultCheckpointerArguments, kind: str, facts: Mapping[str, Any]
) -> None:
    """Writes an event, or notes it until the next save; a kind that is not known is ignored.

    Args:
        recording: of the run.
        args: the checkpointer's.
        kind: what happened; see `TrainerHooks.on_run_event`.
        facts: as there.
    """
    directory = args.save_dir
    if kind == "started":
        config = about.digest({**facts["config"], "checkpointer": about.lasting(args)})
        started = Started(
            by="Trainer", config_sha256=config, world_size=facts["world_size"], keep=about.rules(args.keep)
        )
        recording.start(directory, started)
    elif kind == "saving":
        recording.step = facts["step"]
    elif kind == "measured":
        recording.note(directory, Measured(**facts))
    elif kind == "signal":
        recording.write(directory, Signalled(**facts))
    elif kind == "ended":
        recording.write(directory, Ended(**facts), is_durable=True)
