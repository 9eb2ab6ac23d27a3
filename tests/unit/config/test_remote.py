"""`checkpointer.remote`, and the URLs of directories: what is refused, and that no secret is shown."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

import marlin_ckpt
from marlin_ckpt import (
    ArgumentsError,
    CheckpointDirectory,
    DefaultCheckpointerArguments,
    RemoteArguments,
    Saver,
)
from marlin_ckpt.config import read_config
from marlin_ckpt.errors import ConfigError

NO_ENDPOINT = "expected a URL that begins with http:// or https:// and names a host"


def faults_of(path: Path, checkpointer: str) -> list[str]:
    path.write_text("module: {name: spiral}\ncheckpointer:\n" + checkpointer)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    return [str(fault).removeprefix(f"{path}:") for fault in caught.value.faults]


def test_each_fault_is_told_with_its_line_and_its_key(tmp_path: Path) -> None:
    text = """\
  save_dir: s3://bucket/a//b
  load_dir: gs://bucket/a
  remote:
    endpoint: minio:9000
    part_size: 1MiB
    parallel: 0
    timeout: 30
    conditional: maybe
    secret_key: hunter2
"""
    assert faults_of(tmp_path / "run.yaml", text) == [
        "3: checkpointer.save_dir: an empty name between two slashes; it is s3://bucket/prefix",
        "4: checkpointer.load_dir: gs:// is not known here: expected a directory, or s3://bucket/prefix",
        f"6: checkpointer.remote.endpoint: {NO_ENDPOINT}",
        "7: checkpointer.remote.part_size: expected auto, or whole MiB from 5MiB to 5GiB, not '1MiB'",
        "8: checkpointer.remote.parallel: expected 1 or more, not 0",
        "9: checkpointer.remote.timeout: expected a time, such as 30min, 12h, 7d or 2w, not '30'",
        "10: checkpointer.remote.conditional: expected one of require, allow-without, not 'maybe'",
        "11: checkpointer.remote.secret_key: unknown key",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("endpoint", 5),
        ("endpoint", "ftp://host"),
        ("endpoint", "http://"),
        ("endpoint", "http://[::1"),
        ("endpoint", "http://host:port"),
        ("endpoint", "http://me:hunter2@host"),
        ("endpoint", "http://host/?key=hunter2"),
        ("part_size", "4MiB"),
        ("part_size", 0),
        ("part_size", "5GiB1"),
        ("part_size", 16_000_001),
        ("parallel", 65),
        ("give_up_after", "never"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_its_field_and_shows_no_password(name: str, value: Any) -> None:
    with pytest.raises(ArgumentsError) as caught:
        RemoteArguments(**{name: value})
    assert [fault.field for fault in caught.value.faults] == [name]
    assert "hunter2" not in str(caught.value)


def test_sizes_and_times_are_read() -> None:
    given = RemoteArguments(endpoint="http://host:9000", part_size="64MiB", timeout="90s", give_up_after="2h")
    assert (given.part_bytes, given.timeout_s, given.patience_s) == (64 << 20, 90, 7200)
    assert RemoteArguments(part_size=5 << 20).part_bytes == 5 << 20
    assert RemoteArguments().part_bytes is None


@pytest.mark.parametrize(
    "url",
    [
        "s3://", "s3:///prefix", "s3://me:hunter2@bucket/a", "s3://bucket:9000/a", "s3://bucket/a?hunter2",
        "s3://bucket/../a", "s3://bucket/a#b", "s3://b u/a", "http://bucket/a", "az://bucket/a",
    ],
)  # fmt: skip
def test_a_url_that_leads_nowhere_is_refused_as_each_directory_and_shows_no_password(url: str) -> None:
    names = ["save_dir", "model_state_save_dir", "load_dir"]
    with pytest.raises(ArgumentsError) as caught:
        DefaultCheckpointerArguments(**dict.fromkeys(names, url))
    assert [fault.field for fault in caught.value.faults] == names
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["gs://bucket/a/b.pt", Path("s3://bucket/a/b.pt"), "s3://me:hunter2@bucket/b.pt"]
)
def test_no_file_or_directory_is_made_of_what_looks_like_a_url(
    path: Any, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (
        partial(marlin_ckpt.save, {}),
        partial(Saver().save, {}),
        marlin_ckpt.load,
        CheckpointDirectory,
    ):
        with pytest.raises(ArgumentsError) as caught:
            use(path)
        assert "hunter2" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_slash_at_the_end_of_a_url_and_a_colon_in_a_path_are_no_faults() -> None:
    for path in ("s3://bucket", "s3://bucket/", "s3://bucket/a/b/", "runs/a:b", "/srv/a//b"):
        assert DefaultCheckpointerArguments(save_dir=path).save_dir == path
