"""Every command by URL, against a real S3 server."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import marlin_ckpt
from marlin_ckpt import CheckpointDirectory
from marlin_ckpt.cli.main import main
from marlin_ckpt.storage.paths import existing, open_remote
from marlin_ckpt.storage.target import whole
from tests.support import s3_servers


def state(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((4, 4), value), "bias": torch.zeros(4)}


def filled(url: str, count: int = 3) -> str:
    """A directory of a run whose validation loss was best at the first checkpoint but one."""
    with CheckpointDirectory(url, run="aaaa11112222") as here:
        for index in range(1, count + 1):
            here.save(state(float(index)), index, metrics={"loss": abs(index - 2.0) + 0.5})
    return url


def names(url: str, folder: str = "") -> list[str]:
    with open_remote(url) as store:
        return sorted(store.list(folder).objects)


def damage(url: str, name: str, at: int) -> None:
    """Changes a byte of an object, as a store that has lost it would."""
    with open_remote(url) as store:
        with store.open(name) as source:
            data = bytearray(source.read(0, source.size_bytes))
        data[at] ^= 1
        item = store.head(name)
        store.publish(name, len(data), whole(bytes(data)), replaces=item.identity)


@pytest.fixture(scope="module")
def runs(s3_endpoint: str) -> Iterator[str]:
    """A directory that no test changes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_servers.environment(s3_endpoint).items():
            patch.setenv(name, value)
        yield filled(f"s3://{s3_servers.BUCKET}/{uuid.uuid4().hex}/runs/a")


@pytest.fixture
def ok(run_main):
    """Runs a command that must succeed, and gives its output."""

    def run(*arguments: str | Path) -> str:
        code, out, err = run_main(*arguments)
        assert code == 0, err
        return out

    return run


def test_the_commands_that_look_print_what_is_in_a_store(ok, runs):
    above = runs.rpartition("/")[0]
    assert json.loads(ok("latest", runs, "--json"))["path"] == f"{runs}/model_3.pt"
    assert ok("latest", above, "--intact").strip() == f"{runs}/model_3.pt"
    assert ok("latest", runs, "--run", "aaaa11112222").strip() == f"{runs}/model_3.pt"
    for directory, options in ((runs, []), (f"{runs}/", []), (above, ["--recursive"])):
        listed = json.loads(ok("list", directory, *options, "--json"))["checkpoints"]
        assert [one["path"] for one in listed] == [f"{runs}/model_{index}.pt" for index in (1, 2, 3)]
        assert [one["metrics"]["loss"] for one in listed] == [1.5, 0.5, 1.5]
    assert "model_2.pt" in ok("list", runs, "--best", "loss", "-n", "1")
    assert "weight" in ok("show", f"{runs}/model_1.pt")
    assert "a/model_1.pt" in ok("list", above, "--recursive")


def test_a_whole_bucket_is_a_directory(ok, runs):
    bucket = f"s3://{s3_servers.BUCKET}"
    for url in (bucket, f"{bucket}/"):
        assert json.loads(ok("list", url, "--json"))["checkpoints"] == []
    assert runs in ok("list", bucket, "--recursive", "--json")


def test_verify_and_diff_read_every_byte_of_objects(run_main, ok, s3, tmp_path):
    filled(s3, 2)
    assert json.loads(ok("verify", s3, "--json"))["files"][0]["status"] == "intact"
    local = tmp_path / "model_1.pt"
    torch.save(state(1.0), local)
    assert run_main("diff", f"{s3}/model_1.pt", f"{s3}/model_2.pt")[0] == 1
    same = run_main("diff", f"{s3}/model_2.pt", f"{s3}/model_2.pt")
    assert same[0] == 0, same[2]
    damage(s3, "model_2.pt", 700)
    code, out, err = run_main("verify", s3)
    assert (code, "model_2.pt" in out) == (3, True)
    assert f"marlin-ckpt salvage {s3}/model_2.pt" in out + err
    assert f"marlin-ckpt latest {s3} --intact" in out + err
    assert ok("latest", s3, "--intact").strip() == f"{s3}/model_1.pt"


def test_verify_of_a_prefix_without_checkpoints_says_what_is_there(run_main, s3):
    filled(f"{s3}/a", 1)
    code, _, err = run_main("verify", s3)
    assert (code, "nothing to verify" in err, "it holds a" in err) == (4, True, True)


def test_weights_are_exported_and_averaged_from_a_store_and_to_one(run_main, ok, runs, s3, tmp_path):
    from safetensors.torch import load_file

    local = tmp_path / "model.safetensors"
    ok("export", f"{runs}/model_1.pt", "-o", local)
    assert load_file(local)["weight"][0, 0] == 1
    for name in ("model.safetensors", "model.bin"):
        ok("export", f"{runs}/model_1.pt", "-o", f"{s3}/{name}")
        assert torch.equal(marlin_ckpt.load(f"{s3}/{name}")["weight"], state(1.0)["weight"])
    code, _, err = run_main("export", f"{runs}/model_2.pt", "-o", f"{s3}/model.bin")
    assert (code, "is already there" in err, "--force" in err) == (1, True, True)
    ok("export", f"{runs}/model_2.pt", "-o", f"{s3}/model.bin", "--force")
    assert marlin_ckpt.load(f"{s3}/model.bin")["weight"][0, 0] == 2
    three = [f"{runs}/model_{index}.pt" for index in (1, 2, 3)]
    ok("average", *three, "-o", f"{s3}/mean.safetensors")
    ok("export", local, "-o", f"{s3}/from_disk.pt")
    assert marlin_ckpt.load(f"{s3}/mean.safetensors")["weight"][0, 0] == 2
    assert names(s3) == ["from_disk.pt", "mean.safetensors", "model.bin", "model.safetensors"]


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "x.pt"])
def test_an_export_from_a_store_to_one_writes_to_no_file(runs, s3, name):
    made = []

    def note(event: str, arguments: tuple) -> None:
        by_name = event == "open" and isinstance(arguments[0], str | bytes)
        if event.startswith("tempfile.") or (by_name and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            made.append((event, arguments[0]))

    child = os.fork()
    if not child:
        code = 70
        try:
            if not name.endswith(".safetensors"):  # whose header is proven in memory that passes for a file
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # of what is not written in Python, too
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            sys.dont_write_bytecode = True
            sys.addaudithook(note)
            code = 71 if main(["export", f"{runs}/model_2.pt", "-o", f"{s3}/{name}"]) else len(made)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(marlin_ckpt.load(f"{s3}/{name}")["weight"], state(2.0)["weight"])


def test_all_states_go_from_a_sharded_checkpoint_on_a_disk_to_one_object_and_back(ok, run_main, s3, tmp_path):
    marlin_ckpt.save(state(3.0), tmp_path / "model_1.dcp")
    ok("export", tmp_path / "model_1.dcp", "-o", f"{s3}/model_1.pt", "--state", "all")
    ok("export", f"{s3}/model_1.pt", "-o", tmp_path / "back.dcp", "--state", "all")
    assert marlin_ckpt.load(tmp_path / "back.dcp")["weight"][0, 0] == 3
    for output, options in ((f"{s3}/x.dcp", ["--state", "all"]), (f"{s3}/x/", [])):
        code, _, err = run_main("export", f"{s3}/model_1.pt", "-o", output, *options)
        assert (code, "not written to an object store in this version" in err) == (2, True)
    assert names(s3) == ["model_1.pt"]


def test_what_is_intact_in_a_damaged_object_is_rescued(run_main, s3, tmp_path):
    filled(s3, 1)
    with open_remote(s3) as store, store.open("model_1.pt") as source:
        at = source.read(0, source.size_bytes).index(torch.full((4, 4), 1.0).numpy().tobytes())
    damage(s3, "model_1.pt", at)
    for output in (str(tmp_path / "rescued.pt"), f"{s3}/rescued.pt"):
        code, out, _ = run_main("salvage", f"{s3}/model_1.pt", "-o", output)
        assert (code, "weight" in out) == (3, True)
        assert "bias" in str(marlin_ckpt.load(output))
    assert run_main("salvage", f"{s3}/model_1.pt", "-o", f"{s3}/rescued.pt")[0] == 1


def test_rules_remove_objects_which_the_trash_brings_back(ok, run_main, s3):
    filled(s3)
    assert "remove" in ok("clean", s3, "--keep-last", "1", "--dry-run")
    assert names(s3) == ["model_1.pt", "model_2.pt", "model_3.pt"]
    ok("clean", s3, "--keep-last", "1", "--keep-best", "loss:min:1", "--to-trash")
    assert names(s3) == ["model_2.pt", "model_3.pt"]
    ok("clean", s3, "--undo")
    assert names(s3) == ["model_1.pt", "model_2.pt", "model_3.pt"]
    ok("clean", s3, "--keep-last", "1", "--to-trash")
    ok("clean", s3, "--empty-trash", "--yes")
    code, _, err = run_main("clean", s3, "--undo")
    assert (code, "nothing in the trash" in err) == (4, True), err
    ok("clean", s3, "--yes")
    assert names(s3) == []


def test_the_history_knows_which_objects_are_there(ok, s3):
    filled(s3)
    assert "no longer there" not in ok("log", s3)
    with open_remote(s3) as store:
        store.remove("model_1.pt", store.head("model_1.pt").identity)
    assert [line for line in ok("log", s3).splitlines() if "no longer there" in line] == [
        line for line in ok("log", s3).splitlines() if "saved model_1.pt" in line
    ]
    holds = existing(s3)
    asked = ("model_1.pt", "model_2.pt", "../x", "a//b", "a/b", "")
    assert [holds(one) for one in asked] == [False, True, False, False, False, False]


def test_log_of_a_prefix_without_a_history_names_one_below(run_main, runs):
    code, _, err = run_main("log", runs.rpartition("/")[0])
    assert (code, f"marlin-ckpt log {runs} prints the history" in err) == (4, True)


def test_a_report_is_of_a_store_and_goes_to_one(ok, run_main, s3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled(s3)
    told = json.loads(ok("report", s3, "--stats", "--keep-last", "1", "--json"))
    assert [one["is_there"] for one in told["points"]] == [True] * 3
    assert [one["keeps"] for one in told["points"]] == [False, False, True]
    ok("report", s3, "-o", tmp_path / "report.html")
    for _ in range(2):  # the second replaces the first
        ok("report", f"{s3}/model_2.pt", "-o", f"{s3}/report.html")
    assert names(s3)[-1] == "report.html"
    code, _, err = run_main("report", s3, "-o", s3, "--force")
    assert (code, "a directory has the name" in err) == (1, True)
    code, _, err = run_main("report", s3, "-o", f"{s3}/model_1.pt")
    assert (code, "no report of marlin-ckpt" in err) == (1, True)
    assert os.listdir(tmp_path) == ["report.html"]


def test_commands_on_a_disk_import_nothing_that_talks_to_a_store(repository, tmp_path):
    with CheckpointDirectory(tmp_path / "runs") as here:
        here.save(state(1.0), 1)
    code = """
import sys
from marlin_ckpt.cli.main import main
for command in (
    ["list", "runs"], ["latest", "runs", "--intact"], ["verify", "runs"], ["show", "runs/model_1.pt"],
    ["log", "runs"], ["clean", "runs", "--keep-last", "1"], ["report", "runs"],
    ["export", "runs/model_1.pt", "-o", "a.safetensors"], ["salvage", "runs/model_1.pt", "-o", "b.pt"],
):
    assert main(command) == 0, command
assert not {"boto3", "botocore", "urllib3", "marlin_ckpt.storage.s3"} & {*sys.modules}
"""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr.decode()
