"""Conditions on requests that change objects: whether a store obeys them, and what is done without them."""

import errno
from collections.abc import Callable

from botocore.exceptions import ClientError

from marlin_ckpt.errors import StorageError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.storage.s3 import answers
from marlin_ckpt.storage.s3.client import Client
from marlin_ckpt.storage.s3.keys import Key
from marlin_ckpt.storage.s3.uploading.parts import Upload
from marlin_ckpt.storage.writer import Writer

_logger = get_logger("marlin_ckpt.storage")
# The second names a version that no object has.
_REFUSED = ({"IfNoneMatch": "*"}, {"IfMatch": '"00000000000000000000000000000000"'})
_DATA = b"{}"


def over_nothing(client: Client) -> dict[str, str]:
    """The condition that an object of the name is not there; empty where the store is to know none."""
    return {"IfNoneMatch": "*"} if client.settings.conditional == "require" else {}


def or_look(
    client: Client,
    what: str,
    condition: dict[str, str],
    request: Callable[[dict[str, str]], object],
    look: Callable[[], object],
) -> None:
    """Makes a request on a condition; of a store that knows none there, right after a look.

    Cloudflare R2 and others write on conditions, and do not remove on any.

    Args:
        client: remembers what its store has refused.
        what: the request, such as `DeleteObject`.
        condition: `IfMatch` or `IfNoneMatch`.
        request: makes it; given the condition, or nothing.
        look: raises where the condition does not hold.

    Raises:
        ClientError: the store refuses the request.
    """
    if what not in client.lacks_conditions:
        try:
            request(condition)
        except ClientError as error:
            answer = answers.answer_of(error)
            if answer is None or not answer.is_unimplemented:
                raise
        else:
            return
        client.lacks_conditions.add(what)
        _logger.warning(
            "The store has no conditions for %s: each object is looked at right before it instead.", what
        )
    look()
    request({})


def check(key: Key) -> None:
    """Tries to write over an object on conditions that do not hold; a store that lets that happen is no good.

    Both ways of writing are tried: there are stores that obey conditions of the one alone.

    Args:
        key: of an object that is there, of which nothing is lost.

    Raises:
        StorageError: the store ignores conditions, refuses otherwise, or does not answer.
    """
    if key.client.settings.conditional != "require":
        return
    for is_in_parts in (False, True):
        upload = Upload(key, len(_DATA), {})
        try:
            writer = Writer(upload)
            writer.put(_DATA)
            writer.finish()
            if is_in_parts:
                upload.fence()
            for condition in _REFUSED:
                _check_refused(upload, condition, key)
        finally:
            upload.stop()
            upload.abort()


def _check_refused(upload: Upload, condition: dict[str, str], key: Key) -> None:
    try:
        upload.commit(condition)
    except (answers.RefusedError, ClientError) as error:
        answer = answers.answer_of(error)
        if answer is not None and answer.status in (answers.CHANGED, answers.CONFLICT):
            return
        raise answers.error_for(error, "cannot write", key.path) from None
    except answers.OvertakenError:
        raise answers.overtaken("cannot write", key.path) from None
    what = "the store ignores conditions, so that nothing keeps two runs from overwriting each other"
    hint = "use another store, or checkpointer.remote.conditional: allow-without with one run alone"
    raise StorageError(what, key.path, hint, errno=errno.ENOTSUP)
