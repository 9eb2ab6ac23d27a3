"""The manifest: what a file says of itself, and what goes on from it after a load."""

from __future__ import annotations

import datetime
import json
import math
import platform
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt import Checkpoint, __version__
from marlin_ckpt.errors import UnknownFormatError, UnsavableStateError
from marlin_ckpt.formats import manifest as manifests
from marlin_ckpt.formats.manifest import Manifest, Mesh, Sharded
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.formats.verification import verify
from marlin_ckpt.naming import Kind


def _manifest(path: str | Path) -> dict:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("archive/.marlin/manifest.json"))


def test_metrics_lie_in_the_manifest_and_never_in_the_payload(make_checkpointer, make_checkpoint):
    checkpointer = make_checkpointer()
    path = checkpointer.save(make_checkpoint(1.0, loss=0.25, accuracy=1), 1)
    payload = torch.load(path, weights_only=True)
    assert list(payload) == ["module_interface_state", "trainer_state", "trainer_backend_state"]
    assert _manifest(path)["metrics"] == {"loss": 0.25, "accuracy": 1.0}
    assert checkpointer.load().metrics == {"loss": 0.25, "accuracy": 1.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (0.1 + 0.2, 0.1 + 0.2),
        (5e-324, 5e-324),
        (-0.0, -0.0),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([2], dtype=torch.int8), 2.0),
        (True, 1.0),
    ],
)
def test_a_metric_comes_back_as_the_same_number(make_checkpointer, value, expected):
    checkpointer = make_checkpointer()
    checkpointer.save(Checkpoint({}, {}, {}, {"caf\xe9 \udce9\n": value}), 1)
    (loaded,) = checkpointer.load().metrics.items()
    assert repr(loaded) == repr(("caf\xe9 \udce9\n", expected))


def test_a_metric_that_is_not_a_number_comes_back_so_and_the_manifest_stays_json(make_checkpointer):
    checkpointer = make_checkpointer()
    path = checkpointer.save(Checkpoint({}, {}, {}, {"loss": math.nan}), 1)
    assert math.isnan(checkpointer.load().metrics["loss"])
    assert _manifest(path)["metrics"] == {"loss": "nan"}


def test_the_records_in_the_manifest_are_those_of_the_zip(make_checkpointer, make_checkpoint):
    path = make_checkpointer().save(make_checkpoint(), 1)
    with zipfile.ZipFile(path) as archive:
        records = [
            {"name": info.filename, "size": info.file_size, "crc32": info.CRC}
            for info in archive.infolist()
            if not info.filename.endswith("manifest.json")
        ]
    assert _manifest(path)["records"] == records
    assert len(records) == 6


def test_the_manifest_says_what_the_file_is_and_what_wrote_it(make_checkpointer, make_checkpoint):
    checkpointer = make_checkpointer()
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=1)
    manifest = _manifest(checkpointer.save(make_checkpoint(), 12))
    after = datetime.datetime.now(datetime.UTC)
    assert re.fullmatch(r"[0-9T:-]{19}\.[0-9]{3}Z", manifest["created"])
    created = datetime.datetime.fromisoformat(manifest["created"])
    assert before <= created <= after
    assert (manifest["format_version"], manifest["kind"], manifest["index"]) == (1, "checkpoint", 12)
    assert manifest["versions"] == {
        "marlin_ckpt": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    assert _manifest(checkpointer.save_model({}, 12))["kind"] == "model"


def test_a_file_names_the_checkpoint_that_its_run_resumed_from(make_checkpointer, make_checkpoint):
    first = make_checkpointer()
    path = first.save(make_checkpoint(), 7)
    assert _manifest(path)["parent"] is None
    resumed = make_checkpointer()
    resumed.load()
    later = resumed.save(make_checkpoint(), 8)
    parent = {"run_id": first.run_id, "save_number": 1, "name": "model_7.pt"}
    assert _manifest(later)["parent"] == parent
    with zipfile.ZipFile(later) as archive:
        assert Manifest.from_json(archive.read("archive/.marlin/manifest.json")).parent == (*parent.values(),)


def test_facts_that_this_version_does_not_know_are_ignored_and_those_it_misses_are_empty():
    old = {
        "format_version": 1, "kind": "checkpoint", "index": 3, "created": "2026-01-02T03:04:05Z",
        "run_id": "ab", "save_number": 2, "metrics": {}, "versions": {}, "records": [],
    }  # fmt: skip
    found = Manifest.from_json(json.dumps({**old, "of_a_later_version": [1, {"a": 2}]}).encode())
    assert (found.index, found.lost, found.parent) == (3, [], None)


def test_a_manifest_of_what_has_no_shards_says_nothing_of_them():
    assert b"shard" not in _changed(b'"index":1', b'"index":1')


def test_the_saves_of_a_run_are_numbered_and_go_on_after_a_load(make_checkpointer, make_checkpoint):
    first = make_checkpointer()
    written = [first.save(make_checkpoint(), 1), first.save(make_checkpoint(), 2), first.save_model({}, 2)]
    assert [_manifest(path)["save_number"] for path in written] == [1, 2, 3]
    resumed = make_checkpointer()
    resumed.load()
    manifest = _manifest(resumed.save(make_checkpoint(), 3))
    assert manifest["run_id"] == _manifest(written[0])["run_id"] == first.run_id
    assert manifest["save_number"] == 3


def test_a_run_that_loads_nothing_has_an_id_of_its_own(make_checkpointer, make_checkpoint):
    first, second = make_checkpointer(), make_checkpointer()
    ids = {_manifest(one.save(make_checkpoint(), 1))["run_id"] for one in (first, second)}
    assert len(ids) == 2


def test_a_run_that_goes_on_from_anothers_file_keeps_its_own_id(make_checkpointer, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save(Checkpoint({}, {}, {}).payload(), tmp_path / "checkpoints" / "model_1.pt")
    checkpointer = make_checkpointer()
    own = checkpointer.run_id
    checkpointer.load()
    assert _manifest(checkpointer.save(Checkpoint({}, {}, {}), 2))["run_id"] == own
    assert _manifest(tmp_path / "checkpoints" / "model_2.pt")["save_number"] == 1


def test_a_save_that_failed_takes_no_number(make_checkpointer, make_checkpoint):
    checkpointer = make_checkpointer()
    with pytest.raises(Exception, match="cannot be pickled"):
        checkpointer.save(Checkpoint({"f": lambda: 1}, {}, {}), 1)
    assert _manifest(checkpointer.save(make_checkpoint(), 1))["save_number"] == 1


def _changed(old: bytes, new: bytes) -> bytes:
    data = Manifest(kind=Kind.MODEL, index=1, created="", run_id="", save_number=1).to_json()
    assert data.count(old) == 1
    return data.replace(old, new)


_texts = st.text(st.characters(codec=None), max_size=8)


@given(
    st.builds(
        Manifest,
        kind=st.sampled_from(list(Kind)),
        index=st.integers(min_value=0),
        created=_texts,
        run_id=_texts,
        save_number=st.integers(min_value=1),
        metrics=st.dictionaries(_texts, st.floats(allow_nan=False)),
        versions=st.dictionaries(_texts, _texts),
        records=st.lists(
            st.fixed_dictionaries({"name": _texts, "size": st.integers(0), "crc32": st.integers(0)})
        ),
        sharded=st.none()
        | st.builds(
            Sharded,
            _texts,
            st.integers(min_value=1),
            st.none() | st.just(Mesh((), ())) | st.builds(lambda text: Mesh((text, "tp"), (4, 2)), _texts),
        ),
    )
)
def test_reading_a_written_manifest_gives_the_same_manifest_back(manifest: Manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"1",
        b"null",
        b"\xff",
        b'{"format_version": 1}',
        b"[" * 100_000,
        _changed(b'"model"', b'"x"'),
        _changed(b'"index":1', b'"index":1e999'),
        _changed(b'"index":1', b'"index":"one"'),
        _changed(b'"metrics":{}', b'"metrics":{"loss":"high"}'),
        _changed(b'"metrics":{}', b'"metrics":[]'),
        _changed(b'"records":[]', b'"records":7'),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_what_is_no_manifest_of_this_format_is_a_value_error(data: bytes):
    with pytest.raises(ValueError, match=r"."):
        Manifest.from_json(data)


def _of_shards(**changes: object) -> list[dict]:
    return [{"save_id": "a", "world_size": 2, "mesh": None, **changes}]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("format_version", (0, "1", 1.0, 2.0, True, None)),
        ("index", ("5", 5.0, True, -1, None)),
        ("save_number", ("5", 5.0, True, 0, None)),
        ("created", (5, None)),
        ("run_id", (5, None)),
        ("metrics", ({"a": "1.5"}, {"a": True}, {"a": None}, {"a": []})),
        ("versions", ({"a": 1}, {"a": None})),
        ("records", ({}, "", None)),
        ("lost", ("abc", [5], None)),
        ("parent", ({}, [], "", {"run_id": "a", "save_number": "1", "name": "b"})),
        ("optimizers", ([], {"a": "bc"}, {"a": ["bc"]}, {"a": [[5]]})),
        ("layout", (5, None)),
        (
            "sharded",
            (None, [], {}, 1, *_of_shards(world_size=0), *_of_shards(save_id=1), *_of_shards(mesh=[])),
        ),
        ("sharded", (*_of_shards(mesh={"names": ["a"], "shape": []}),)),
        ("sharded", (*_of_shards(mesh={"names": ["a"], "shape": [0]}),)),
    ],
)
def test_a_value_that_has_another_type_than_its_key_is_a_value_error(key: str, values: tuple):
    whole = json.loads(_changed(b'"index":1', b'"index":1'))
    for value in values:
        with pytest.raises(ValueError, match=r"manifest|less than|mesh"):
            Manifest.from_json(json.dumps({**whole, key: value}).encode())


def test_a_file_by_a_newer_marlin_ckpt_is_told_as_that_and_not_as_corrupt(
    make_checkpointer, make_checkpoint, monkeypatch
):
    checkpointer = make_checkpointer()
    checkpointer.save(make_checkpoint(1.0), 1)
    monkeypatch.setattr(manifests.Manifest, "to_json", _of_format_2(manifests.Manifest.to_json))
    newer = checkpointer.save(make_checkpoint(2.0), 2)
    assert verify(newer).status is Status.UNVERIFIABLE
    assert "format 2, this marlin-ckpt reads 1" in verify(newer).reason
    with pytest.raises(UnknownFormatError) as caught:
        make_checkpointer(load_filename="model_2.pt").load()
    assert caught.value.hint == "a newer marlin-ckpt wrote it: upgrade"
    with pytest.raises(UnknownFormatError):  # an older checkpoint would be a wrong answer
        checkpointer.load()


def _of_format_2(to_json):
    return lambda manifest: to_json(manifest).replace(b'"format_version":1', b'"format_version":2')


def test_what_is_saved_can_be_read_again_however_many_metrics_and_too_many_are_refused(make_checkpointer):
    checkpointer = make_checkpointer()
    many = {f"a metric with quite a long name, number {number}": 1.5 for number in range(50_000)}
    checkpointer.save(Checkpoint({}, {}, {}, many), 1)
    assert checkpointer.load().metrics == many
    too_many = {f"{number} {'x' * 1000}": 1.5 for number in range(9000)}
    with pytest.raises(UnsavableStateError, match="the metrics take"):
        checkpointer.save(Checkpoint({}, {}, {}, too_many), 2)
    assert checkpointer.load().metrics == many


@pytest.mark.parametrize("name", ["archive/data/1234567", "n" * 200, '"' * 200])
def test_a_manifest_may_be_as_long_as_what_it_says_of_its_records(name):
    said = json.dumps({"crc32": 2**32 - 1, "name": name, "size": 2**44}, separators=(",", ":")) + ","
    assert len(said) <= manifests.most_bytes([name]) - manifests.most_bytes([])


def test_a_manifest_that_is_longer_than_any_of_ours_is_refused_unread(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    path = tmp_path / "model_1.pt"
    with zipfile.ZipFile(tmp_path / "a.pt") as whole, zipfile.ZipFile(path, "w") as file:
        for name in whole.namelist():
            file.writestr(name, whole.read(name))
        file.writestr("a/.marlin/manifest.json", b" " * (manifests.most_bytes(whole.namelist()) + 1000))
    verdict = verify(str(path))
    assert verdict.reason.startswith("refused as too large: its manifest has ")
