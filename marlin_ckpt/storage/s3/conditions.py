"""Finds out whether a store obeys the conditions that nothing else replaces: some servers ignore them."""

import errno

from botocore.exceptions import ClientError

from marlin_ckpt.errors import StorageError
from marlin_ckpt.storage.s3 import answers
from marlin_ckpt.storage.s3.keys import Key
from marlin_ckpt.storage.s3.parts import Upload
from marlin_ckpt.storage.writer import Writer

# The second names a version that no object has.
_REFUSED = ({"IfNoneMatch": "*"}, {"IfMatch": '"00000000000000000000000000000000"'})


def check(key: Key) -> None:
    """Tries to write over an object on conditions that do not hold; a store that lets that happen is no good.

    Args:
        key: of an object that is there, of which nothing is lost.

    Raises:
        StorageError: the store ignores conditions, refuses otherwise, or does not answer.
    """
    if key.client.settings.conditional != "require":
        return
    for condition in _REFUSED:
        if not _is_obeyed(key, condition):
            what = "the store ignores conditions, so that nothing keeps two runs from overwriting each other"
            hint = "use another store, or checkpointer.remote.conditional: allow-without with one run alone"
            raise StorageError(what, key.path, hint, errno=errno.ENOTSUP)


def _is_obeyed(key: Key, condition: dict[str, str]) -> bool:
    data = b"{}"
    upload = Upload(key, len(data), {})
    try:
        writer = Writer(upload)
        writer.put(data)
        writer.finish()
        upload.commit(condition)
    except (answers.RefusedError, ClientError) as error:
        answer = answers.answer_of(error)
        if answer is not None and answer.status in (answers.CHANGED, answers.CONFLICT):
            return True
        raise answers.error_for(error, "cannot write", key.path) from None
    finally:
        upload.stop()
    return False
