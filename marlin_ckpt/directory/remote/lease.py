"""The lease of a directory in an object store: one run at a time saves into it.

It is an object that is written on conditions alone, so that of two that take it one does, and that expires by
the server's clock, so that what a dead run has held is free after a minute. Whoever holds it renews it, and
looks at it before each commit; see `S3Store.guard` for a run that was stopped after that look.
"""

import contextlib
import datetime
import errno
import json
import os
import socket
import threading
import uuid
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.errors import DirectoryInUseError, MarlinError, StorageError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.storage.paths import guard, open_remote, unguard
from marlin_ckpt.storage.s3.client import now_s
from marlin_ckpt.storage.s3.store import S3Store
from marlin_ckpt.storage.target import whole

LEASE = f"{naming.OWN_DIRECTORY}/lease.json"
TTL_S = 60.0
_LONGEST_S = 3600.0  # what is to expire later was not written by us
_RENEWALS = 4  # in the life of a lease
_SURE = 0.8  # of its life in which the holder relies on it: clocks run apart, and an answer takes its time

_logger = get_logger("marlin_ckpt.lease")


def was_held(directory: str) -> bool:
    """Whether a run has ever held the lease of a directory.

    Raises:
        StorageError: the store does not say.
    """
    with open_remote(directory) as store:
        return store.head(LEASE) is not None


class RemoteLock:
    """The lease in the hands of this process.

    Attributes:
        directory: its URL.
        ttl_s: how long it lasts without a renewal, in seconds.
    """

    def __init__(self, directory: str, run_id: str, *, removes: bool, ttl_s: float = TTL_S) -> None:
        """Takes it.

        Args:
            directory: its URL.
            run_id: of the run that will save there; "" where it is not known.
            removes: whether it is held to remove.
            ttl_s: see `ttl_s`.

        Raises:
            DirectoryInUseError: another process holds it.
            StorageError: the store refuses, does not answer, or does not obey conditions.
        """
        self.directory, self.ttl_s = directory, ttl_s
        self._holder = {
            "host": socket.gethostname(), "pid": os.getpid(), "run_id": run_id, "removes": removes,
            "since": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }  # fmt: skip
        self._process = os.getpid()
        self._etag = ""
        self._sure_until_s = 0.0
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._take()
        guard(directory, self.check)
        self._thread = threading.Thread(target=self._renew, name="marlin-ckpt lease", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        with open_remote(self.directory) as store:
            store.guard = None
            etag = self._of_before(store)
            began_s = now_s()
            self._etag = self._write(store, etag)
            self._sure_until_s = began_s + self.ttl_s * _SURE
            # A run that was stopped after its last look at the lease would commit when it goes on: its
            # uploads end here, and with them what it could commit.
            for name in store.unfinished():
                with contextlib.suppress(MarlinError):
                    store.remove(name, ())
                    _logger.warning("Ended the upload of %s/%s by a run that has died.", store.place, name)

    def _of_before(self, store: S3Store) -> str | None:
        """The version of the lease that has expired or was let go; None where nobody ever held it.

        Raises:
            DirectoryInUseError: it has not expired.
        """
        try:
            with store.open(LEASE) as source:
                data, etag = source.read(0, source.size_bytes), source.etag
        except FileNotFoundError:
            return None
        held: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            read = json.loads(data)
            held = read if isinstance(read, dict) else {}
        expires = held.get("expires")
        left_s = expires - store.now_s() if isinstance(expires, (int, float)) else 0
        if 0 < left_s <= _LONGEST_S:
            raise DirectoryInUseError(
                "another run saves there", self.directory, holder={**held, "left_s": left_s}
            )
        if expires:
            _logger.info("Took over the lease of %s, which has expired.", self.directory)
        return etag

    def _write(self, store: S3Store, etag: str | None, lasts_s: float | None = None) -> str:
        """Writes who holds it until when, over a version of it or over none; returns the new version."""
        expires = store.now_s() + self.ttl_s if lasts_s is None else lasts_s
        data = json.dumps({**self._holder, "expires": expires, "nonce": uuid.uuid4().hex}).encode()
        try:
            item = store.publish(LEASE, len(data), whole(data), replaces=None if etag is None else (etag,))
            if etag is None:
                store.check_conditions(LEASE, data)
        except StorageError as error:
            if error.errno not in (errno.ESTALE, errno.EEXIST):
                raise
            raise DirectoryInUseError("another run was faster", self.directory) from None
        return str(item.identity[0])

    def _renew(self) -> None:
        while not self._ended.wait(self.ttl_s / _RENEWALS):
            with contextlib.suppress(MarlinError):
                self._renew_once()

    def _renew_once(self) -> None:
        """Renews it.

        Raises:
            DirectoryInUseError: another run has taken it over.
            StorageError: the store does not answer.
        """
        with self._changing, open_remote(self.directory) as store:
            store.guard = None
            if not self._etag or self._process != os.getpid():
                raise DirectoryInUseError("the lease was lost to another run", self.directory)
            began_s = now_s()
            try:
                self._etag = self._write(store, self._etag)
            except DirectoryInUseError:
                self._etag, self._sure_until_s = "", 0.0
                raise DirectoryInUseError("the lease was lost to another run", self.directory) from None
            self._sure_until_s = began_s + self.ttl_s * _SURE

    def check(self) -> None:
        """Looks whether it is still held; where that is not sure any more, asks the store.

        Raises:
            DirectoryInUseError: another run has taken it over.
            StorageError: the store does not answer.
        """
        if now_s() >= self._sure_until_s:
            self._renew_once()

    def drop(self) -> None:
        """Lets go of it: whoever comes next need not wait until it expires."""
        self._ended.set()
        unguard(self.directory)
        if self._process != os.getpid():
            return
        with self._changing, contextlib.suppress(MarlinError):
            if self._etag:
                with open_remote(self.directory) as store:
                    store.guard = None
                    self._write(store, self._etag, 0)
                self._etag = ""
