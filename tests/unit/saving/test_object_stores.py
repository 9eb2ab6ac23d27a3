"""Saves to and loads from a bucket, against a real server."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace

import pytest
import torch

from marlin_ckpt import (
    ArgumentsError,
    Checkpoint,
    CheckpointDirectory,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    Saver,
    StorageError,
    load,
    save,
)
from marlin_ckpt.directory import catalog
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.remote import RemoteArguments
from marlin_ckpt.saving import background
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3 import keys
from marlin_ckpt.storage.s3.client import client
from marlin_ckpt.storage.s3.uploading.parts import Upload
from marlin_ckpt.storage.source import stretch
from marlin_ckpt.storage.target import whole
from tests.support.folders import REPOSITORY


def requests_of(work) -> dict[str, int]:
    """How many requests some work makes, by their kind."""
    one, found = client(RemoteArguments()), Counter[str]()
    send = one.send

    def sent(method, *request):
        found[f"{method} data"] += 1
        return send(method, *request)

    def asked(request, **_):
        found[f"{request.method} control"] += 1

    one.control.meta.events.register("before-send.s3", asked)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(one, "send", sent)
            work()
    finally:
        one.control.meta.events.unregister("before-send.s3", asked)
    return dict(found)


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(300, 300)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 300)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_live_objects_are_saved_and_restored_with_two_requests_for_data(s3: str):
    model, optimizer = trained()
    path = f"{s3}/runs/final.pt"
    report = save({"model": model, "optimizer": optimizer}, path, metrics={"loss": 0.5}, index=7)
    assert (report.path, report.size_bytes) == (path, paths.look(path).size_bytes)
    other, another = trained()
    made = requests_of(lambda: load(path, into={"model": other, "optimizer": another}))
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(*(one.state_dict()["state"][0]["exp_avg"] for one in (optimizer, another)))
    assert made["GET data"] <= 8  # its end, and a mebibyte at a time


def test_a_look_at_each_checkpoint_is_one_request_that_reads_nothing_of_it(s3: str):
    metrics = {"loss of  two blanks": 0.25, "größe": 2.0, "gone": float("nan")}
    for index in range(3):
        save({"w": torch.ones(3)}, f"{s3}/model_{index}.pt", metrics=metrics)
    found = []
    made = requests_of(lambda: found.extend(map(inspect, catalog.find(s3))))
    assert (made.pop("HEAD control"), made) == (3, {"GET control": 1})
    entry = found[2].entry
    inside = inspect(entry._replace(item=entry.item._replace(about=""))).manifest
    assert repr(found[2].manifest) == repr(replace(inside, records=[], optimizers={}))
    assert [(one.complete, one.manifest.index) for one in found] == [(True, 0), (True, 1), (True, 2)]
    assert repr(sorted(found[0].metrics.items())) == repr(sorted(metrics.items()))


def test_a_stretch_takes_one_request_across_small_gaps_and_another_after_a_large_one(s3: str):
    data, path = os.urandom(8 << 20), f"{s3}/some.bin"
    paths.publish(path, whole(data), len(data))
    reads = [(0, 1000), (5000, 600 << 10), (3 << 20, 300 << 10), (100, 300 << 10)]
    found = []

    def read() -> None:
        with stretch(source, 0, 7 << 20) as near:
            found.extend(near.read(at, size) for at, size in reads)

    with paths.open_source(path) as source:
        made = requests_of(read)
    assert found == [data[at : at + size] for at, size in reads]
    assert made == {"GET data": 3}


def test_metrics_that_are_too_many_for_an_object_to_have_beside_it_are_read_from_it(s3: str):
    metrics = {f"metric {number}": 1.0 for number in range(200)}
    save({"w": torch.ones(3)}, f"{s3}/model_1.pt", metrics=metrics)
    entry = catalog.entry(f"{s3}/model_1.pt")
    assert entry.item.about == ""
    assert inspect(entry).metrics == metrics


def test_the_newest_is_found_by_one_listing(s3: str):
    for index in range(3):
        save({"w": torch.ones(3)}, f"{s3}/model_{index}.pt")
    found = []
    made = requests_of(lambda: found.append(DefaultCheckpointer.get_latest_file(s3, "model")))
    assert (found, made) == ([f"{s3}/model_2.pt"], {"GET control": 1, "HEAD control": 1})


def test_what_a_store_lists_and_does_not_show_is_an_error_and_no_older_checkpoint_in_its_place(s3: str):
    for index in range(2):
        save({"w": torch.ones(3)}, f"{s3}/model_{index}.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "head", refused(keys.head, "model_1.pt"))
        with pytest.raises(StorageError, match="AccessDenied"):
            DefaultCheckpointer.get_latest_file(s3, "model")
        with pytest.raises(StorageError, match="AccessDenied"):
            list(CheckpointDirectory(s3))


def refused(head, name: str):
    """Looks at all objects but one."""

    def look(key, retrying):
        if key.key.endswith(name):
            raise StorageError("cannot look at: the store answers AccessDenied", key.path, errno=errno.EACCES)
        return head(key, retrying)

    return look


def test_a_save_replaces_what_is_there_only_where_it_may_and_only_what_it_has_seen(s3: str):
    path = f"{s3}/model_1.pt"
    save({"w": torch.ones(3)}, path)
    with pytest.raises(StorageError) as taken:
        save({"w": torch.zeros(3)}, path, overwrite=False)
    assert taken.value.errno == errno.EEXIST
    save({"w": torch.full((3,), 2.0)}, path)

    with pytest.MonkeyPatch.context() as patch:

        def meanwhile(self, condition):
            patch.undo()
            save({"w": torch.full((3,), 3.0)}, path)
            return self.commit(condition)

        patch.setattr(Upload, "commit", meanwhile)
        with pytest.raises(StorageError, match="another object has taken its place") as lost:
            save({"w": torch.full((3,), 4.0)}, path)
    assert lost.value.errno == errno.ESTALE
    assert load(path)["w"].tolist() == [3.0] * 3


def test_saves_behind_a_loop_are_there_when_it_has_waited_for_them(s3: str):
    state = {"w": torch.zeros(1000)}
    seen = []
    with Saver(on_durable=lambda report: seen.append((report.path, paths.exists(report.path)))) as saver:
        for index in range(3):
            state["w"].fill_(index)
            saver.save(state, f"{s3}/model_{index}.pt")
        state["w"].fill_(9)
    assert seen == [(f"{s3}/model_{index}.pt", True) for index in range(3)]
    assert [load(f"{s3}/model_{index}.pt")["w"][0].item() for index in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_directory_in_a_bucket_keeps_the_newest_and_loads_the_best(s3: str, asynchronous: bool):
    model, _ = trained()
    with CheckpointDirectory(s3, keep=2, asynchronous=asynchronous) as found:
        for index, loss in enumerate([3.0, 1.0, 2.0]):
            found.save({"model": model, "step": index}, index, metrics={"loss": loss})
    assert [(one.index, one.metrics["loss"]) for one in found] == [(1, 1.0), (2, 2.0)]
    assert found.latest().index == 2
    assert CheckpointDirectory(s3).load("best", metric="loss")["step"] == 1


def test_a_loop_goes_on_where_a_store_does_not_answer_and_it_is_to_be_warned_alone(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setattr(RemoteArguments, "patience_s", 0.0)
    reached = RemoteArguments(endpoint="http://127.0.0.1:9", region="us-east-1")
    args = DefaultCheckpointerArguments(
        save_dir="s3://bucket/unreached", remote=reached, on_save_error="warn", model_state_save_dir=None
    )
    with DefaultCheckpointer(args) as checkpointer:
        assert checkpointer.save(Checkpoint({"w": torch.ones(3)}), 0) is None
    (failed,) = checkpointer.failed_saves()
    assert "cannot be reached" in failed.error


def test_what_is_no_single_object_is_refused_before_anything_is_asked():
    url = "s3://bucket/refused"
    with pytest.raises(StorageError, match="not kept in object stores"):
        save({"w": torch.ones(3)}, f"{url}/model_1.dcp")
    with pytest.raises(StorageError, match="not kept in object stores"):
        CheckpointDirectory(url).transaction("model_1").__enter__()
    with pytest.raises(ArgumentsError, match="expected auto or file"):
        CheckpointDirectory(url, layout="sharded").save({"w": torch.ones(3)}, 1)
    args = DefaultCheckpointerArguments(save_dir=url, layout="sharded")
    with pytest.raises(ArgumentsError, match="expected auto or file"):
        DefaultCheckpointer(args)


def test_who_waits_long_for_a_save_is_told_for_which(monkeypatch):
    monkeypatch.setattr(background, "_SILENT_S", 0.0)
    logger, is_told, said = logging.getLogger("waiting saver"), threading.Event(), []
    logger.setLevel(logging.INFO)
    logger.addFilter(lambda record: said.append(record.getMessage()) or is_told.set())
    one = background.Background(logger)
    one.start(lambda: is_told.wait(30), "s3://bucket/model_1.pt")
    assert one.ended() is None
    assert said == ["Waiting until s3://bucket/model_1.pt is saved."]


MEMORY = """
import json, sys, threading, torch
from tests.support.saving_memory import peak_beyond_kib
from marlin_ckpt import Saver, load, save
from marlin_ckpt.remote import RemoteArguments
from marlin_ckpt.storage import paths
url = sys.argv[1]
paths.use(url, RemoteArguments(part_size="5MiB"))
state = {"w": torch.arange(16 << 20, dtype=torch.float32), "b": torch.ones(1000)}
save({"b": state["b"]}, url + "/first.pt")
found = {"save": peak_beyond_kib(lambda: save(state, url + "/model_1.pt"))}
other = {"w": torch.zeros(16 << 20), "b": torch.zeros(1000)}
found["load"] = peak_beyond_kib(lambda: load(url + "/model_1.pt", into=other))
found["same"] = all(torch.equal(state[name], other[name]) for name in state)
print(json.dumps(found), flush=True)
import marlin_ckpt.saving.background as background
background._SILENT_S = 0.0
Saver().save(state, url + "/model_2.pt")
"""


def test_a_large_state_takes_little_memory_and_a_program_ends_once_its_last_save_is_there(s3: str):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, s3], env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["same"]
    assert found["save"] < 40 << 10  # five parts of 5 MiB, and what sends them
    assert found["load"] < 32 << 10
    assert f"{s3}/model_2.pt" in done.stderr  # what it waits for
    assert inspect(catalog.entry(f"{s3}/model_2.pt")).complete
    assert paths.look(f"{s3}/model_2.pt").size_bytes == pytest.approx(64 << 20, rel=0.01)
