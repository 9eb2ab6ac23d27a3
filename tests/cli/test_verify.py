"""`verify` never says that all is well where it has looked at nothing."""

from __future__ import annotations

import json

import torch


def test_a_folder_in_which_nothing_was_found_exits_4_and_says_what_it_holds(run_main, tmp_path):
    folder = tmp_path / "step-100"
    folder.mkdir()
    (folder / "shard_0.dat").write_bytes(b"rubbish")
    code, out, err = run_main("verify", folder)
    assert (code, out) == (4, "")
    assert f"nothing to verify in this directory: {folder}" in err
    assert "shard_0.dat" in err
    assert run_main("verify", folder, "--json")[0] == 4


def test_a_folder_without_anything_is_told_beside_others_that_are_sound(run_main, tmp_path):
    empty, full = tmp_path / "empty", tmp_path / "full"
    for folder in (empty, full):
        folder.mkdir()
    torch.save({"w": torch.ones(2)}, full / "a.pt")
    code, out, err = run_main("verify", full, empty, "--json")
    assert code == 4
    assert [one["status"] for one in json.loads(out)["files"]] == ["intact"]
    assert str(empty) in err
    (full / "b.pt").write_bytes((full / "a.pt").read_bytes()[:-40])
    assert run_main("verify", full, empty)[0] == 3


def test_a_pointer_says_in_the_document_too_what_to_type_next(run_main, tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    code, out, _ = run_main("verify", path, "--json")
    assert code == 3
    assert json.loads(out)["files"][0]["hint"] == "`git lfs pull` fetches the file"
