"""The folders of Accelerate's `save_state`: their names, what has to be in them, which come and go."""

import os
import re
from collections.abc import Collection

from marlin_ckpt.errors import StorageError
from marlin_ckpt.operations.folders import numbered
from marlin_ckpt.operations.folders.numbered import Judge

NAME = re.compile(r"checkpoint_([0-9]+)")
_FILES = re.compile(
    r"(model|pytorch_model|optimizer|scheduler|sampler|dl_state_dict)(_[0-9]+)?\.(safetensors|bin)"
    r"|scaler\.pt|(random_states|custom_checkpoint)_[0-9]+\.pkl"
)


def missing(names: Collection[str], customs: int, models: int, optimizers: int, schedulers: int) -> str:
    """A file that `load_state` needs and a folder lacks; "" where all are there.

    Args:
        names: of the files in a folder.
        customs: how many objects were registered for checkpointing.
        models: how many were prepared.
        optimizers: likewise.
        schedulers: likewise.
    """
    weights = [{f"model{end}.safetensors", f"pytorch_model{end}.bin"} for end in _endings(models)]
    wanted = weights + [{f"optimizer{end}.bin"} for end in _endings(optimizers)]
    wanted += [{f"scheduler{end}.bin"} for end in _endings(schedulers)]
    wanted += [{f"custom_checkpoint_{number}.pkl"} for number in range(customs)]
    wanted += [{"random_states_0.pkl"}]
    return next((min(one) for one in wanted if one.isdisjoint(names)), "")


def _endings(count: int) -> list[str]:
    return [f"_{number}" if number else "" for number in range(count)]


def check_last(path: str, judge: Judge) -> None:
    """Refuses the name of a new folder where a sound one of this number or a greater one is there.

    Raises:
        StorageError: there is one: by its number the new one would not be the last, or replace it.
    """
    directory, name = os.path.split(path)
    later = numbered.folders(directory, NAME, _number_of(name))
    if found := numbered.newest(later, judge, lambda *_: None):
        hint = "call load_state first, set project_configuration.iteration, or save elsewhere"
        raise StorageError(f"is there, so that {name} would not be the last", found.path, hint)


def check_replaceable(path: str) -> None:
    """Refuses a folder that holds files which no save has written.

    Raises:
        StorageError: it does.
    """
    if others := numbered.others_in(path, _FILES):
        hint = "save to a folder of its own, or move them"
        raise StorageError(f"holds what no save has written, such as {others[0]}", path, hint)


def rotate(path: str, limit: int) -> list[tuple[str, int]]:
    """Removes all but the folders of the greatest numbers beside a new one, which stays.

    Args:
        path: of the new one.
        limit: how many stay with it.

    Returns:
        the paths of what has gone, with the sizes in bytes.
    """
    found = [one for one in numbered.folders(os.path.dirname(path), NAME) if one != path]
    return numbered.remove(reversed(found[max(limit, 1) - 1 :]))


def history_of(path: str) -> str:
    """The directory whose history has a state: `load_state` takes all in `checkpoints` for states."""
    directory = os.path.dirname(path)
    return os.path.dirname(directory) if os.path.basename(directory) == "checkpoints" else directory


def next_number(directory: str, loaded: str) -> int:
    """The number of the folder after the one that was loaded.

    Args:
        directory: where the next one will be.
        loaded: the path of the last sound one; "" where another one was chosen: then all are counted.
    """
    last = loaded or next(iter(numbered.folders(directory, NAME)), "")
    return _number_of(last) + 1 if last else 0


def _number_of(path: str) -> int:
    return int(path.rpartition("_")[2])
