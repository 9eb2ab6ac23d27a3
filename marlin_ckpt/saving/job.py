"""A save that was asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving.sharing.sharing import Sharing
from marlin_ckpt.saving.writing.crew import Crew


class Form(Enum):
    """What a state becomes.

    Attributes:
        FILE: a file by one process.
        GATHERED: a file by rank 0 of a state of which each rank has parts.
        SHARDED: a folder, to which each rank writes what it has.
    """

    FILE = auto()
    GATHERED = auto()
    SHARDED = auto()


@dataclass(frozen=True, slots=True)
class How:
    """How states are saved; see the fields of these names of `DefaultCheckpointerArguments`.

    Attributes:
        async_save: copy the state, and write the copy in the background.
        overlap: copy what a known optimizer owns in the background too.
        check_overlap: compare checksums of these tensors and their copies.
        statistics: save the statistics of the tensors, too.
    """

    async_save: bool = False
    overlap: bool = True
    check_overlap: bool = False
    statistics: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A save that was asked for.

    The functions are called on the thread that writes, which is the caller's where nothing is saved in the
    background.

    Attributes:
        path: of the file or folder.
        state: what is saved.
        manifest: of the file, without its records.
        how: it is saved.
        form: what it becomes; the same at all ranks.
        crew: the ranks that save it, where these are others than the engine's.
        may_skip: whether it is skipped while the save before it is under way, in place of waiting for it.
        gives_up: whether it is only logged that a tensor has changed while it was copied, and nothing was
            written; else it is an error.
        makes_plain: whether values that `weights_only` refuses are saved as plain ones.
        overwrite: whether a file that has the name is replaced.
        sharing: how a file shares with earlier ones what has not changed; None: not at all.
        make_room: called where the disk is full; returns whether it has removed anything.
        on_durable: told of the file that is durable.
        on_given_up: told why nothing was written, where that is only logged.
        on_error: told what the save failed with in the background, which is then not raised; None: it is.
    """

    path: str
    state: Any
    manifest: Manifest
    how: How
    form: Form = Form.FILE
    crew: Crew | None = None
    may_skip: bool = False
    gives_up: bool = False
    makes_plain: bool = True
    overwrite: bool = True
    sharing: Sharing | None = None
    make_room: Callable[[], bool] = lambda: False
    on_durable: Callable[[SaveReport], None] = lambda _: None
    on_given_up: Callable[[str], None] = lambda _: None
    on_error: Callable[[Exception], None] | None = None
