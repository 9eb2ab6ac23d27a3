"""`verify` of folders that other tools wrote: each as one checkpoint, by name and in a directory."""

from __future__ import annotations

import json
import os

import pytest

from marlin_ckpt import DefaultCheckpointer, DefaultCheckpointerArguments
from tests.support.foreign import hub, hugging_face, trainer
from tests.support.foreign.corpus import CHECKPOINTS, RUNS

FILES = ("lightning", "nanogpt", "timm", "ignite", "ignite-model")
FOLDERS = [name for name in CHECKPOINTS if name not in FILES]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_has_one_verdict_and_none_for_its_files(run_main, tmp_path, name):
    made = CHECKPOINTS[name](tmp_path)
    code, out, _ = run_main("verify", made.path, "--json")
    found, *inside = json.loads(out)["files"]
    assert (code, found["path"], found["status"]) == (0, str(made.path), "unverifiable")
    assert found["reason"]
    assert all(os.path.isdir(one["path"]) for one in inside)  # weights that were put together of others


@pytest.mark.parametrize("name", ["trainer", "trainer-fsdp", "megatron"])
def test_of_a_directory_each_folder_has_one_line(run_main, tmp_path, name):
    made = RUNS[name](tmp_path)
    code, out, _ = run_main("verify", tmp_path)
    assert (code, [line.split()[1] for line in out.splitlines()]) == (0, [str(one.path) for one in made])


def test_a_folder_that_lacks_a_file_fails_and_names_it(run_main, tmp_path):
    made = RUNS["trainer"](tmp_path)
    (made[1].path / "optimizer.pt").unlink()
    code, out, _ = run_main("verify", tmp_path)
    assert code == 3
    assert f"incomplete  {made[1].path}  (optimizer.pt is missing" in out


def test_with_strict_what_has_no_checksums_fails(run_main, tmp_path, make_checkpoint):
    trainer.make_trainer(tmp_path / "theirs")
    assert run_main("verify", tmp_path / "theirs")[0] == 0
    assert run_main("verify", tmp_path / "theirs", "--strict")[0] == 3
    DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(tmp_path / "ours"))).save(
        make_checkpoint(), 1
    )
    assert run_main("verify", tmp_path / "ours", "--strict")[0] == 0


def test_deep_compares_what_a_cache_of_the_hub_holds_with_its_digests(run_main, tmp_path):
    made = hub.make_cached(tmp_path)
    code, out, err = run_main("verify", made.path, "--deep", "--strict")
    assert (code, out.split()[0]) == (0, "intact")
    assert "hint" not in err
    file = next(one for one in made.files if one.endswith(".safetensors"))
    blob = (made.path / file).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)
    assert run_main("verify", made.path)[0] == 0
    code, out, _ = run_main("verify", made.path, "--deep")
    assert (code, out.split()[0]) == (3, "corrupt")
    assert file in out


def test_deep_says_where_it_had_nothing_to_compare(run_main, tmp_path):
    made = hugging_face.make_sharded(tmp_path)
    code, _, err = run_main("verify", made.path, "--deep")
    assert code == 0
    assert "hint: --deep compared nothing" in err
