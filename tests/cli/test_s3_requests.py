"""How many requests everything takes, as the page on object storage says it, to the single one."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import torch

import marlin_ckpt
from marlin_ckpt import (
    Checkpoint,
    CheckpointDirectory,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    RetentionArguments,
)
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory.remote import sharing
from marlin_ckpt.storage.s3 import client
from tests.support import s3_servers
from tests.support.faulty_proxy import Proxy, faulty_proxy
from tests.support.folders import REPOSITORY

PAGE = REPOSITORY / "docs" / "how-to" / "object-storage.md"
STATE = {"weight": torch.ones(4, 4)}


@pytest.fixture(scope="module")
def counted(s3_endpoint: str) -> Iterator[Proxy]:
    """Stands before the server, and counts."""
    with faulty_proxy(s3_endpoint) as one, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_servers.environment(one.endpoint).items():
            patch.setenv(name, value)
        patch.setattr(client, "_clients", {})
        yield one


@pytest.fixture(scope="module")
def directory(counted: Proxy) -> str:
    """A run with twelve checkpoints."""
    url = f"s3://{s3_servers.BUCKET}/{uuid.uuid4().hex}/run"
    with CheckpointDirectory(url, run="aaaa11112222") as here:
        for index in range(1, 13):
            here.save(STATE, index, metrics={"loss": 1 / index})
    return url


def told() -> dict[str, str]:
    """By what is done, the requests that it takes, from the table of the page."""
    table = PAGE.read_text(encoding="utf-8").partition("| what | requests |\n")[2].partition("\n\n")[0]
    return dict(re.findall(r"\| `([^`]+)`.* \| ([^|]+) \|$", table, re.MULTILINE))


def in_words(kinds: list[str]) -> str:
    """Requests as the page names them, in the order of their kinds."""
    counts = Counter(kinds)
    return ", ".join(f"{counts[kind]} {kind}" if counts[kind] > 1 else kind for kind in sorted(counts))


def of_a_run(what: str, url: str, ends: ExitStack) -> Callable[[], object]:
    """What a run does that holds the lease of a directory, after some saves."""
    args = {"save_dir": url, "load_dir": url, "keep": RetentionArguments(last=2)}
    checkpointer = DefaultCheckpointer(DefaultCheckpointerArguments(**args))
    ends.enter_context(checkpointer.running())
    for index in range(3):
        checkpointer.save(Checkpoint(STATE), index)
    if what == "lease":
        lock, _ = sharing._here.locks[url]
        return lambda: lock._renew_once(1.0)
    return lambda: checkpointer.save(Checkpoint(STATE), 3)


def of_a_large_state(url: str) -> Callable[[], object]:
    """The fourth save of one that has mostly not changed."""
    sharing, state = CheckpointDirectory(url, keep=2, share_unchanged=True), {"w": torch.zeros(10, 1 << 20)}

    def save(index: int) -> None:
        state["w"] += 1 if not index else 0
        state["w"][5, : 1 << 18] = index
        sharing.save(state, index)

    for index in range(3):
        save(index)
    return lambda: save(3)


def does(what: str, url: str, ends: ExitStack) -> Callable[[], object]:
    """What a row of the table does, as a function."""
    if what.startswith("marlin-ckpt "):
        words = [word.replace("URL", url) for word in what.split()[1:]]
        return lambda: main(words)
    beside = url.replace("/run", f"/{uuid.uuid4().hex}")
    if what.startswith("checkpointer.") or what == "lease":
        return of_a_run(what, beside, ends)
    if what.startswith("sharing."):
        return of_a_large_state(beside)
    here = CheckpointDirectory(f"{beside}/own", keep=2)
    if what == "checkpoints.save(state, index)":
        for index in range(3):
            here.save(STATE, index)
    return {
        "marlin_ckpt.save(state, url)": lambda: marlin_ckpt.save(STATE, f"{beside}/final.pt"),
        "marlin_ckpt.load(url)": lambda: marlin_ckpt.load(f"{url}/model_12.pt"),
        "marlin_ckpt.load(directory)": lambda: marlin_ckpt.load(url),
        "checkpoints.save(state, index)": lambda: here.save(STATE, 3),
        "checkpoints.load()": CheckpointDirectory(url).load,
    }[what]


@pytest.mark.parametrize("what", told())
def test_it_takes_the_requests_that_the_page_says(what, counted, directory, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with ExitStack() as ends:
        work = does(what, directory, ends)
        counted.reset()
        assert not isinstance(code := work(), int) or code == 0, capsys.readouterr().err
        kinds = counted.kinds()
    assert in_words(kinds) == told()[what]
