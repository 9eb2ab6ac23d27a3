"""What the first of the processes that train together finds, for all; for what is built on Accelerate."""

from collections.abc import Callable
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list


def agreed(find: Callable[[], Any]) -> Any:
    """What the first process finds, or raises, in every process; all of them have to call it.

    Args:
        find: called in the first process alone; what it returns or raises can be pickled.
    """
    state = PartialState()
    found: list[Any] = [None, None]
    if state.is_main_process:
        try:
            found[0] = find()
        except Exception as error:  # noqa: BLE001 - raised below, in every process
            found[1] = error
    if state.num_processes > 1:
        broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]
