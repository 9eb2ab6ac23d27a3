"""No key, token, signature or password is in anything that is said, whatever happens to requests."""

from __future__ import annotations

import contextlib
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator

import pytest
import torch

from marlin_ckpt import CheckpointDirectory, MarlinError
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3 import client
from tests.support import relays, s3_servers
from tests.support.faulty_proxy import Canned, Fault, Proxy, always
from tests.support.s3_stores import opened, read, settings, write

PASSWORD = "pa55word"
EVERY = "(Get|Head|Put|List|Delete|Create|Upload|Abort).*"  # and so no commit

pytestmark = pytest.mark.usefixtures("short_pauses")


class Said:
    """Collects what is said: logs at DEBUG, results, errors in all their forms, and what commands print."""

    def __init__(self, caplog: pytest.LogCaptureFixture, run_main: Callable[..., tuple[int, str, str]]):
        self._caplog, self._run_main = caplog, run_main
        self.texts: list[str] = []
        caplog.set_level(logging.DEBUG)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except MarlinError as error:
            self.texts += [str(error), repr(error), repr(vars(error)), str(pickle.dumps(error))]
            self.texts += traceback.format_exception(error)

    def call(self, function: Callable[[], object]) -> None:
        with self.errors():
            self.texts.append(repr(function())[:1000])

    def command(self, *arguments: str) -> None:
        _, out, err = self._run_main(*arguments)
        self.texts += [out, err]

    def holds(self, *secrets: str) -> list[str]:
        everything = "\n".join([self._caplog.text, *self.texts])
        return [one for one in secrets if one in everything]


@pytest.fixture
def said(caplog, run_main) -> Said:
    return Said(caplog, run_main)


def signatures(proxy: Proxy) -> set[str]:
    found = {one.get("authorization", "").rpartition("Signature=")[2] for one in proxy.headers} - {""}
    assert found
    return found


SPEAKS = Canned.error(403, "SignatureDoesNotMatch", f"the key {s3_servers.KEY} is not {s3_servers.SECRET}")


@pytest.mark.parametrize(
    "fault", [None, Fault.SLOW_DOWN, Fault.CUT_DOWN, SPEAKS], ids=["none", "busy", "cut", "speaks"]
)
def test_no_secret_is_in_what_commands_print_or_a_history_has(s3, proxy, said, fault):
    how = {"timeout": "1s", "give_up_after": "1s"}
    paths.use(s3, settings(proxy.endpoint, **how))
    with opened(s3, proxy.endpoint, **how) as store, CheckpointDirectory(s3) as checkpoints:
        checkpoints.save({"a": torch.ones(3)}, 1)
        if fault is not None:
            proxy.rule = always(EVERY, fault)
        with said.errors():
            checkpoints.save({"a": torch.ones(3)}, 2)
        said.command("list", s3, "--json")
        said.command("verify", f"{s3}/model_1.pt", "--json")
        said.texts += [repr(store), repr(vars(store)), repr(checkpoints)]
        proxy.rule = lambda _: None
        said.command("log", s3, "--json")
        for name in store.list(".marlin-ckpt/events").objects:
            said.texts.append(read(store, name).decode())
    assert "model_1.pt" in said.texts[-1]
    assert said.holds(s3_servers.SECRET, s3_servers.KEY, *signatures(proxy)) == []


@pytest.mark.parametrize("is_known", [True, False], ids=["", "refused"])
def test_no_password_of_a_proxy_is_said(s3, s3_endpoint, said, monkeypatch, is_known):
    monkeypatch.setattr(client, "_clients", {})
    paths.use(s3, settings(s3_endpoint))
    with relays.relay(f"me:{PASSWORD}") as relay:
        url = relay.url_with_credentials
        monkeypatch.setenv("HTTP_PROXY", url if is_known else url.replace("//me", "//nobody"))
        said.command("list", s3, "--json")
        with opened(s3, s3_endpoint) as store:
            for function in (store.list, lambda: write(store, "b.pt", b"x"), lambda: read(store, "b.pt")):
                said.call(function)
            said.texts += [repr(vars(store)), repr(vars(store._client.settings))]
        assert relay.seen
    assert said.holds(PASSWORD, s3_servers.SECRET) == []
