"""The arguments of a `CheckpointDirectory`, as the saves of a run obey them."""

from typing import Literal

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.errors import ArgumentsError, Fault
from marlin_ckpt.keep import RetentionArguments

Mode = Literal["min", "max"]
Layout = Literal["auto", "file", "sharded"]
# What the arguments are called that the fields of `DefaultCheckpointerArguments` stand for.
_NAMES = {"save_dir": "path", "file_prefix": "prefix", "file_ext": "ext", "async_save": "asynchronous"}


def run_arguments(  # noqa: PLR0913, PLR0917 - those of `CheckpointDirectory`
    path: str,
    prefix: str,
    ext: str,
    keep: RetentionArguments | int | None,
    run: str | None,
    layout: str,
    *,
    asynchronous: bool,
    statistics: bool,
    share_unchanged: bool,
) -> DefaultCheckpointerArguments:
    """Checks the arguments, and brings them into one.

    Raises:
        ArgumentsError: naming every one that is wrong.
    """
    faults, rules = [], None
    if isinstance(keep, int) and not isinstance(keep, bool) and keep > 0:
        rules = RetentionArguments(last=keep)
    elif keep is None or isinstance(keep, RetentionArguments):
        rules = keep
    else:
        faults.append(Fault("keep", f"expected a number of 1 or more, or RetentionArguments, not {keep!r}"))
    if run == "" or not isinstance(run, str | None):
        faults.append(Fault("run", f"expected the id of a run, not {run!r}"))
    try:
        args = DefaultCheckpointerArguments(
            save_dir=path,
            model_state_save_dir=None,
            file_prefix=prefix,
            file_ext=ext,
            keep=rules,
            async_save=asynchronous,
            layout=layout,
            statistics=statistics,
            share_unchanged=share_unchanged,
        )
    except ArgumentsError as error:
        renamed = (one._replace(field=_NAMES.get(one.field, one.field)) for one in error.faults)
        raise ArgumentsError([*renamed, *faults]) from None
    if faults:
        raise ArgumentsError(faults)
    return args
