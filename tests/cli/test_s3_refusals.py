"""What commands say where a URL leads nowhere or a store refuses: why, what to do, and nothing secret."""

from __future__ import annotations

import json

import pytest

import marlin_ckpt
from marlin_ckpt.cli import output, stopping
from marlin_ckpt.storage.paths import open_remote
from marlin_ckpt.storage.s3 import client, retrying
from marlin_ckpt.storage.target import whole
from tests.support import s3_servers
from tests.support.faulty_proxy import Fault, faulty_proxy

SECRET = "pa55word"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"s3://user:{SECRET}@bucket/run", "no user, password or port"),
        (f"s3://bucket/run?X-Amz-Signature={SECRET}", "a query"),
        ("s3:///run", "names no bucket"),
        ("s3://bucket/a/../b", ". and .."),
        ("s3://bucket/a//b", "between two slashes"),
        ("s3://bucket/a\\b", "a backslash"),
        ("S3:/bucket/run", "a slash is missing"),
        ("gs://bucket/run", "gs:// is not known here"),
        (f"http://user:{SECRET}@host/run", "http:// is not known here"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_and_no_password_repeated(run_main, tmp_path, url, why):
    (tmp_path / "a.pt").touch()
    for command in (
        ["list", url], ["latest", url], ["show", url], ["verify", str(tmp_path), url], ["log", url],
        ["clean", url], ["report", url], ["diff", url, url], ["salvage", url, "-o", str(tmp_path / "x.pt")],
        ["export", str(tmp_path / "a.pt"), "-o", url], ["report", str(tmp_path), "-o", url, "--json"],
    ):  # fmt: skip
        code, out, err = run_main(*command)
        assert (code, why in err) == (2, True), (command, err)
        assert SECRET not in out + err


@pytest.mark.parametrize(
    "command", [["advise"], ["env"], ["init"], ["prove-resume", "--config", "x.yaml", "--directory"]]
)
def test_what_needs_a_disk_says_so_of_a_store(run_main, command):
    code, _, err = run_main(*command, "s3://bucket/run")
    assert (code, "an object store will not do here" in err) == (2, True)


@pytest.mark.parametrize("command", ["train", "prove-resume"])
def test_a_configuration_in_a_store_is_refused_with_the_way_to_a_disk(run_main, command):
    code, out, err = run_main(command, "--config", f"s3://user:{SECRET}@bucket/run.yaml")
    assert (code, "file: is read from a disk, and not from an object store" in err) == (2, True), err
    assert "hint: copy it to this machine first: aws s3 cp" in err
    assert SECRET not in out + err


@pytest.mark.parametrize("command", ["list", "latest", "log", "verify", "clean", "report"])
def test_a_bucket_that_is_not_there_is_no_directory_without_checkpoints(run_main, s3, command):
    code, _, err = run_main(command, "s3://no-such-bucket/run")
    assert code == 1
    assert "error: no such bucket" in err
    assert "hint: make the bucket, or look at its name and the endpoint" in err


@pytest.mark.parametrize("command", ["list", "latest", "clean", "log"])
def test_an_object_is_no_directory(run_main, s3, command):
    marlin_ckpt.save({"step": 1}, f"{s3}/model_1.pt")
    code, _, err = run_main(command, f"{s3}/model_1.pt")
    assert (code, "Not a directory" in err) == (1, True), err
    assert f"hint: it is a file; marlin-ckpt show {s3}/model_1.pt looks into it" in err


def test_what_is_not_there_ends_with_the_code_for_that(run_main, s3):
    for command in ("show", "verify", "latest", "log"):
        code, _, err = run_main(command, f"{s3}/model_9.pt")
        assert (code, err.startswith("error: no ")) == (4, True), err


@pytest.mark.parametrize(
    ("command", "name", "code", "said"),
    [
        ("show", "runs/model_3.pt", 4, "did you mean {}/runs/model_2.pt?"),
        ("verify", "rnus", 4, "did you mean {}/runs?"),
        ("list", "rnus", 0, "did you mean {}/runs?"),
        ("clean", "rnus", 0, "did you mean {}/runs?"),
        ("show", "runs", 1, "name a file in it: model_2.pt; marlin-ckpt latest {}/runs prints the newest"),
        ("export", "x/y", 4, ""),
    ],
)
def test_the_hint_is_a_name_like_it_or_what_is_there(run_main, s3, command, name, code, said):
    with open_remote(s3) as store:
        store.publish("runs/model_2.pt", 4, whole(b"data"))
    output = ["-o", "x.pt"] if command == "export" else []
    found, out, err = run_main(command, f"{s3}/{name}", *output)
    hints = [line.removeprefix("hint: ") for line in err.splitlines() if line.startswith("hint: ")]
    assert (found, hints) == (code, [said.format(s3)] * bool(said)), out + err


@pytest.mark.parametrize("kind", ["HeadObject", "ListObjects", "GetObject"])
def test_a_refused_request_is_an_error_and_never_a_directory_without_checkpoints(
    run_main, s3, s3_endpoint, monkeypatch, kind
):
    with open_remote(s3) as store:
        store.publish("a/model_2.pt", 4, whole(b"data"))
    with faulty_proxy(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setattr(client, "_clients", {})
        # Of looks only those at the checkpoint itself: that one must not be passed over.
        keys = "model_2.pt" if kind == "HeadObject" else ""
        proxy.rule = lambda one: Fault.SKEWED if one.kind.startswith(kind) and keys in one.key else None
        for command in (["list", f"{s3}/a"], ["list", s3, "--recursive"], ["latest", s3, "--intact"]):
            code, out, err = run_main(*command, "--json")
            said = out + err
            assert code or (kind == "GetObject" and "cannot be read" in said), (command, said)
            assert "no checkpoint" not in said


def test_without_credentials_and_without_a_server_the_message_says_what_to_set(run_main, s3, monkeypatch):
    monkeypatch.setattr(retrying, "_NEVER_ANSWERED_S", 0.2)
    monkeypatch.setattr(retrying, "_FIRST_S", 0.01)
    for name, value, why, hint in (
        (
            "AWS_ENDPOINT_URL",
            f"http://127.0.0.1:{s3_servers.free_port()}",
            "cannot be reached",
            "AWS_ENDPOINT",
        ),
        ("AWS_ACCESS_KEY_ID", None, "no credentials", "AWS_PROFILE"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(client, "_clients", {})
            patch.setenv(name, value) if value else patch.delenv(name)
            code, out, err = run_main("list", s3, "--json")
        document = json.loads(out)["error"]
        assert (code, document["exit_code"]) == (1, 1)
        assert why in document["message"]
        assert hint in document["hint"]
        assert s3_servers.SECRET not in out + err


def test_a_command_that_is_stopped_says_how_to_find_out_what_a_store_has(monkeypatch):
    monkeypatch.setattr(output.documents, "when_stopped", None)
    stopping.writes("s3://bucket/run/a.pt")
    told = "`marlin-ckpt list s3://bucket/run` says whether it is written"
    assert (stopping.line(130), stopping.line(143)) == (f"interrupted: {told}", f"terminated: {told}")
