"""A prefix on the S3 server of the tests as a store, and what happens to one of the requests to it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from marlin_ckpt.entries import Item
from marlin_ckpt.remote import RemoteArguments
from marlin_ckpt.storage.s3.store import S3Store, open_store
from tests.support.faulty_proxy import Fault, Proxy, Rule

MIB = 1 << 20
DATA = bytes(range(256)) * (21 * MIB // 1024)  # 5.25 MiB: two parts, of which the first is as small as can be
# All of which pass where the request is made again.
PASSING = (
    Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SLOW_DOWN, Fault.EXPIRED, Fault.ERROR_IN_200, Fault.CUT_UP,
    Fault.CUT_DOWN,
)  # fmt: skip


def settings(endpoint: str, **others: Any) -> RemoteArguments:
    """How a store is reached, with little patience."""
    how = {"part_size": "5MiB", "timeout": "5s", "give_up_after": "20s", **others}
    return RemoteArguments(endpoint=endpoint, **how)


@contextlib.contextmanager
def opened(url: str, endpoint: str, **others: Any) -> Iterator[S3Store]:
    """A prefix as a store."""
    with open_store(url, settings(endpoint, **others)) as store:
        yield store


def write(store: S3Store, name: str = "model_1.pt", data: bytes = DATA, **how: Any) -> Item:
    return store.publish(name, len(data), lambda target: target.put(data), **how)


def read(store: S3Store, name: str = "model_1.pt") -> bytes:
    with store.open(name) as source:
        return source.read(0, source.size_bytes)


def nth(number: int, fault: Fault) -> Rule:
    """The request of a number fails, counted from now on, whatever it asks for."""
    numbers = itertools.count()
    return lambda _: fault if next(numbers) == number else None


def with_each_request_failing_once(
    proxy: Proxy, fault: Fault, act: Callable[[int], object], *, one_in: int = 1
) -> list[str]:
    """Does something as often as it makes requests; each time another one of them fails.

    Args:
        proxy: before the server.
        fault: of each request.
        act: does it, given a number of its own.
        one_in: takes one request in so many; each fault strikes others.

    Returns:
        the requests that it makes, in their order.
    """
    proxy.reset()
    act(0)
    kinds = proxy.kinds()
    for number in range([*Fault].index(fault) % one_in, len(kinds), one_in):
        proxy.reset()
        proxy.rule = nth(number, fault)
        act(number + 1)
    proxy.reset()
    return kinds
