"""The lease of a directory in an object store: one run at a time saves into it.

It is an object that is written on conditions alone, so that of two that take it one does, and that expires by
the server's clock, so that what a dead run has held is free after a minute. Whoever holds it renews it, and
looks at it before each commit; see `S3Store.guard` for a run that was stopped after that look.
"""

import errno
import json
import math
import os
import threading
import time
import uuid
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.directory.leasing import holders, processes
from marlin_ckpt.directory.remote import orphans
from marlin_ckpt.errors import CheckpointNotFoundError, DirectoryInUseError, MarlinError, StorageError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.storage.paths import guard, open_remote, unguard
from marlin_ckpt.storage.s3.client import now_s
from marlin_ckpt.storage.s3.store import S3Store
from marlin_ckpt.storage.target import whole

LEASE = f"{naming.OWN_DIRECTORY}/lease.json"
TTL_S = 60.0
_LONGEST_S = 3600.0  # what is to expire later was not written by us
_MOST_BYTES = 64 << 10  # nor is what is longer
_RENEWALS = 4  # in the life of a lease
_SURE = 0.8  # of its life in which the holder relies on it: an answer takes its time
_POLL_S = 2.0  # of whoever waits to see whether the holder is alive
_LETTING_GO_S = 5.0  # how long the end of a run waits for a store that does not answer
_CHANGED = (errno.ESTALE, errno.EEXIST)

_logger = get_logger("marlin_ckpt.lease")


def was_held(directory: str) -> bool:
    """Whether a run has ever held the lease of a directory.

    Raises:
        StorageError: the store does not say.
    """
    with open_remote(directory) as store:
        return store.head_object(LEASE) is not None


def holder(directory: str) -> dict[str, Any]:
    """Who holds the lease now, and in how many seconds it ends, as `left_s`; {} where nobody is known to."""
    try:
        with open_remote(directory) as store:
            return _holder(store)
    except MarlinError:
        return {}


def is_held(directory: str) -> bool:
    """Whether somebody holds the lease of a directory.

    Raises:
        StorageError: the store does not say.
    """
    with open_remote(directory) as store:
        return bool(_holder(store))


def _holder(store: S3Store) -> dict[str, Any]:
    found, _ = _read(store)
    left_s = _left_s(found, store)
    return {**found, "left_s": left_s} if left_s and not processes.has_died(found) else {}


def _read(store: S3Store) -> tuple[dict[str, Any], str | None]:
    """What the lease says, {} where that is none of ours, and its version; None where nobody ever held it."""
    try:
        with store.open(LEASE) as source:
            data, etag = source.read(0, min(source.size_bytes, _MOST_BYTES)), source.etag
    except CheckpointNotFoundError:
        return {}, None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    return (found if isinstance(found, dict) else {}), etag


def _left_s(found: dict[str, Any], store: S3Store) -> float:
    """For how long a lease lasts if it is not renewed; 0 where it has ended or was let go."""
    expires = found.get("expires")
    left_s = expires - store.now_s() if isinstance(expires, (int, float)) else 0.0
    return left_s if 0 < left_s <= _LONGEST_S else 0.0


class RemoteLock:
    """The lease in the hands of this process.

    Attributes:
        directory: its URL.
        ttl_s: how long it lasts without a renewal, in seconds.
    """

    def __init__(
        self, directory: str, run_id: str, *, waits: bool = False, ttl_s: float | None = None
    ) -> None:
        """Takes it.

        Args:
            directory: its URL.
            run_id: of the run that will save there; "" where it is not known; `ALONE` to remove.
            waits: where another process holds it, watch whether that renews it, or it expires.
            ttl_s: see `ttl_s`; None: a minute.

        Raises:
            DirectoryInUseError: another process holds it.
            StorageError: the store refuses, does not answer, or does not obey conditions.
        """
        self.directory, self.ttl_s = directory, TTL_S if ttl_s is None else ttl_s
        # The token tells what this process has written, also where the answer to it was lost.
        self._holder = {**holders.this_process(run_id), "token": uuid.uuid4().hex}
        self._process = os.getpid()
        self._etag, self._sure_until_s = "", 0.0
        self._is_passing = False  # of a removal where there was none: its end leaves no trace
        self._changing, self._ended = threading.Lock(), threading.Event()
        with open_remote(directory) as store:
            store.guard = None
            self._take(store, waits=waits)
        guard(directory, self.check)
        threading.Thread(target=self._renew, name="marlin-ckpt lease", daemon=True).start()

    def _take(self, store: S3Store, *, waits: bool) -> None:
        etag = self._free(store, waits=waits)
        self._is_passing = etag is None and self._holder["removes"]
        try:
            self._write(store, etag)
        except StorageError as error:
            if error.errno not in _CHANGED:
                raise
            self._free(store, waits=waits)  # says who was faster
            raise DirectoryInUseError("another run was faster", self.directory) from None
        try:
            store.check_conditions(LEASE)
            if not self._holder["removes"]:
                orphans.end(store, is_held)
        except BaseException:
            self._let_go(store)
            raise

    def _free(self, store: S3Store, *, waits: bool) -> str | None:
        """Waits until nobody holds it, unless its holder is alive.

        Returns:
            the version of the lease that has ended; None where there is none.

        Raises:
            DirectoryInUseError: its holder has renewed it, or is not waited for.
        """
        before: dict[str, Any] = {}
        while True:
            found, etag = _read(store)
            left_s = _left_s(found, store)
            if not left_s or processes.has_died(found):
                if found.get("expires"):
                    who = holders.which(found)
                    _logger.info("Took over the lease of %s from %s, which has died.", self.directory, who)
                return etag
            is_renewed = bool(before) and before.get("nonce") != found.get("nonce")
            if not waits or is_renewed:
                held = {**found, "left_s": left_s}
                raise DirectoryInUseError("another run saves there", self.directory, holder=held)
            if not before:
                _logger.warning(
                    "The lease of %s is held by %s: waiting to see whether it lives, for %d s at most.",
                    self.directory, holders.which(found), math.ceil(left_s),
                )  # fmt: skip
            before = found
            time.sleep(min(_POLL_S, left_s))

    def _write(self, store: S3Store, etag: str | None) -> None:
        """Writes who holds it until when, over a version of it or over none.

        Raises:
            StorageError: it is another version (ESTALE, EEXIST), or the store does not answer.
        """
        began_s = now_s()
        self._etag = self._publish(store, etag, store.now_s() + self.ttl_s)
        # Others may think it later than we do, by as much as the server's clock is not known here.
        self._sure_until_s = began_s + (self.ttl_s - store.doubt_s) * _SURE

    def _publish(self, store: S3Store, etag: str | None, expires: float) -> str:
        data = json.dumps({**self._holder, "expires": expires, "nonce": uuid.uuid4().hex}).encode()
        item = store.publish(LEASE, len(data), whole(data), replaces=None if etag is None else (etag,))
        return str(item.identity[0])

    def _renew(self) -> None:
        while not self._ended.wait(self.ttl_s / _RENEWALS):
            try:
                self._renew_once(self.ttl_s)
            except DirectoryInUseError as error:
                if not self._ended.is_set():
                    _logger.error("%s: nothing more is saved there.", error)  # noqa: TRY400 - no news in it
                return
            except Exception as error:  # noqa: BLE001 - it is tried again, and asked for before each commit
                _logger.info("Could not renew the lease of %s: %s", self.directory, error)

    def _renew_once(self, patience_s: float | None = None) -> None:
        """Renews it.

        Args:
            patience_s: for how long a store is asked that does not answer; None: as its settings say.

        Raises:
            DirectoryInUseError: another run has taken it over, or it was let go.
            StorageError: the store does not answer.
        """
        with self._changing, open_remote(self.directory) as store:
            store.guard = None
            if patience_s is None and now_s() < self._sure_until_s:  # renewed while we waited for our turn
                return
            if patience_s is not None:
                store.hurry(patience_s)
            if not self._etag:
                raise self._lost({})
            try:
                self._write(store, self._etag)
            except StorageError as error:
                if error.errno not in _CHANGED:
                    raise
                self._write_again(store)

    def _write_again(self, store: S3Store) -> None:
        """Renews what an own request has changed whose answer was lost, or what somebody has removed.

        Raises:
            DirectoryInUseError: another run has taken it over.
            StorageError: the store does not answer.
        """
        found, etag = _read(store)
        try:
            if etag is not None and found.get("token") != self._holder["token"]:
                raise self._lost(found)
            self._write(store, etag)
        except StorageError as error:
            if error.errno in _CHANGED:
                raise self._lost({}) from None
            raise

    def _lost(self, found: dict[str, Any]) -> DirectoryInUseError:
        self._etag, self._sure_until_s = "", 0.0
        by = f"to {holders.which(found)}" if found else "to another run, or let go"
        return DirectoryInUseError(f"the lease was lost {by}", self.directory, holder=found)

    def check(self) -> None:
        """Looks whether it is still held; where that is not sure any more, asks the store.

        Raises:
            DirectoryInUseError: another run has taken it over.
            StorageError: the store does not answer.
        """
        if self._process != os.getpid():
            what = "the lease is held by the process from which this one was forked"
            raise DirectoryInUseError(what, self.directory, holder=self._holder)
        if now_s() >= self._sure_until_s:
            self._renew_once()

    def name(self, run_id: str) -> None:
        """Has the lease say which run holds it, where that was not known yet."""
        if not self._holder["run_id"]:
            self._holder["run_id"] = run_id
            try:
                self._renew_once(_LETTING_GO_S)
            except MarlinError as error:
                _logger.info("The lease of %s does not name its run yet: %s", self.directory, error)

    def drop(self) -> None:
        """Lets go of it: whoever comes next need not wait until it expires."""
        self._ended.set()
        unguard(self.directory)
        # What is still being saved finds from here on that the lease is not held any more.
        self._sure_until_s = 0.0
        if self._changing.acquire(timeout=_LETTING_GO_S):  # else it is being renewed, and ends by itself
            try:
                with open_remote(self.directory) as store:
                    store.guard = None
                    self._let_go(store)
            finally:
                self._changing.release()

    def _let_go(self, store: S3Store) -> None:
        etag, self._etag, self._sure_until_s = self._etag, "", 0.0
        store.hurry(_LETTING_GO_S)
        if etag:
            try:
                if self._is_passing:
                    store.remove(LEASE, (etag, LEASE))
                else:
                    self._publish(store, etag, 0)
            except MarlinError as error:
                _logger.info("The lease of %s ends by itself: %s", self.directory, error)
