"""The uploads that runs and removals have left which have died: whoever takes the lease ends them."""

import os
from collections.abc import Callable

from marlin_ckpt.escaping import get_logger
from marlin_ckpt.naming import OWN_DIRECTORY, TRASH
from marlin_ckpt.storage.s3.store import S3Store
from marlin_ckpt.storage.s3.uploads import MARK

_logger = get_logger("marlin_ckpt.lease")


def end(store: S3Store, is_held: Callable[[str], bool]) -> None:
    """Ends what others upload to a directory, to its trash, and from there to folders.

    A run that was stopped after its last look at the lease would commit when it goes on. Without its uploads
    it has nothing to commit.

    Args:
        store: the directory, whose lease this process has.
        is_held: whether somebody has the lease of another directory; that one's uploads are left.

    Raises:
        StorageError: the store refuses: then nothing is sure.
    """
    for name in store.orphans():
        folder = os.path.dirname(name.partition(MARK)[0])
        is_own = folder.split("/", maxsplit=1)[0] in ("", TRASH, OWN_DIRECTORY)
        if not is_own and is_held(f"{store.place}/{folder}"):
            continue
        store.remove(name, ())
        _logger.warning("Ended the upload of %s/%s by a run that has died.", store.place, name)
