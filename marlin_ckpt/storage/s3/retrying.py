"""Which failed requests are made again, when, and for how long."""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from marlin_ckpt.errors import MarlinError, StorageError
from marlin_ckpt.storage.s3 import answers
from marlin_ckpt.storage.s3.client import Client

_T = TypeVar("_T")
# Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
_FIRST_S, _LONGEST_S = 0.2, 20.0
# An endpoint that has never answered is more likely a wrong name than a store that is being started.
_NEVER_ANSWERED_S = 15.0


class Retrying:
    """Makes requests, and those that fail in passing again, until the time is up or it is stopped.

    Attributes:
        patience_s: for how long they are made again, in seconds.
        stopping: set by whoever wants no request made again.
    """

    def __init__(self, client: Client, patience_s: float | None = None) -> None:
        """Takes what makes the requests.

        Args:
            client: whose credentials are found anew once for a request, where they are refused as expired.
            patience_s: for how long, in seconds; None: as the client's settings say.
        """
        self._client = client
        self.patience_s = client.settings.patience_s if patience_s is None else patience_s
        self.stopping = threading.Event()

    def do(self, request: Callable[[], _T], action: str, where: str, *, passes: tuple[int, ...] = ()) -> _T:
        """Makes a request.

        Args:
            request: makes it anew at each call, and changes nothing that a second one would not change alike.
            action: what it does, for messages, such as `cannot read`.
            where: the URL that it is about.
            passes: statuses of answers that the caller understands; their errors pass through, but for those
                of a conflict that is to be tried again, as one with our own request whose answer was lost.

        Returns:
            what it returns.

        Raises:
            StorageError: it fails, and again until the time is up.
            CheckpointNotFoundError: there is no such bucket or object.
            RefusedError, ClientError: with a status of `passes`.
        """
        began, attempt, was_renewed = time.monotonic(), 0, False
        while True:
            control = self._client.control
            try:
                found = request()
            except Exception as error:
                if isinstance(error, MarlinError) or not answers.is_of_store(error):
                    raise
                answer = answers.answer_of(error)
                self._client.has_answered |= answer is not None and answer.is_of_s3
                if answer is not None and answer.status in passes and not answer.is_passing:
                    raise
                if answer is not None and answer.is_expired and not was_renewed:
                    was_renewed = True
                    self._client.renew(control)
                    continue
                waited = time.monotonic() - began
                patience_s = self.patience_s
                if not self._client.has_answered:
                    patience_s = min(patience_s, _NEVER_ANSWERED_S)
                pause = random.uniform(0, min(_LONGEST_S, _FIRST_S * 2**attempt))  # noqa: S311 - no secret
                if not answers.may_pass(error) or waited + pause > patience_s or self.stopping.is_set():
                    raised = answers.error_for(error, action, where)
                    if isinstance(raised, StorageError) and attempt:
                        raised.what += f", tried {attempt + 1} times in {waited:.0f} s"
                    # Not `from error`: its text may hold a signed header.
                    raise raised from None
            else:
                self._client.has_answered = True
                return found
            attempt += 1
            self.stopping.wait(pause)
