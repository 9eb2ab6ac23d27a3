"""`marlin-ckpt clean` by rules, and its trash."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import pytest

from marlin_ckpt.storage.local import temporary


@pytest.fixture
def clean(run_main):
    return functools.partial(run_main, "clean")


@pytest.fixture
def saved(make_checkpointer, make_checkpoint, tmp_path) -> Path:
    checkpointer = make_checkpointer()
    for index in range(8):
        checkpointer.save(make_checkpoint(float(index), loss=abs(index - 2.0)), index)
    return tmp_path / "checkpoints"


def there(folder: Path) -> list[int]:
    return sorted(int(path.stem.split("_")[1]) for path in folder.glob("*.pt"))


RULES = ("--keep-last", "2", "--keep-every", "5", "--keep-best", "loss:min:1")


def test_each_checkpoint_is_listed_with_the_reasons(clean, saved):
    code, out, err = clean(saved, *RULES, "--dry-run")
    rows = [line.split(maxsplit=4) for line in out.splitlines()]
    assert (code, rows[0]) == (0, ["index", "size", "why", "file"])
    why = {int(row[1]): (row[0], row[4].rsplit("  ", 1)[0].strip()) for row in rows[1:]}
    assert why[0] == ("keep", "every 5")
    assert why[1] == ("remove", "no rule keeps it")
    assert why[2] == ("keep", "best loss (1 of 1)")
    assert why[7] == ("keep", "newest; last 2")
    assert err.startswith(f"3 files in {saved}, would free ")
    assert there(saved) == list(range(8))


def test_the_dry_run_prints_what_the_doing_prints_and_does(clean, saved):
    _, foretold, _ = clean(saved, *RULES, "--dry-run")
    code, done, err = clean(saved, *RULES)
    assert (code, done) == (0, foretold)
    assert "freed" in err
    assert there(saved) == [0, 2, 5, 6, 7]
    _, again, _ = clean(saved, *RULES)
    assert "remove" not in again


def test_the_document_is_the_same_before_and_after(clean, saved):
    foretold = json.loads(clean(saved, *RULES, "--dry-run", "--json")[1])
    document = json.loads(clean(saved, *RULES, "--json")[1])
    assert {**foretold, "dry_run": False} == document
    assert document.keys() == {
        "schema",
        "directory",
        "dry_run",
        "to_trash",
        "removed",
        "failed",
        "bytes_freed",
        "checkpoints",
    }
    assert [one["index"] for one in document["checkpoints"] if one["keep"]] == [0, 2, 5, 6, 7]
    assert document["checkpoints"][1]["reasons"] == ["no rule keeps it"]
    assert document["removed"][0]["reason"] == "no rule keeps it"
    assert document["checkpoints"][0].keys() == {"path", "index", "size_bytes", "run_id", "keep", "reasons"}


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        (("--keep-last", "1"), [7]),
        (("--keep-best", "loss"), [2, 7]),
        (("--keep-best", "loss:max"), [7]),
        (("--keep-best", "loss:max:2", "--keep-best", "loss:min:2"), [2, 3, 6, 7]),
        (("--keep-within", "7d"), list(range(8))),
        (("--keep-hourly", "1", "--keep-daily", "1", "--keep-weekly", "1"), [7]),
        (("--max-total", "1B"), [7]),
    ],
)
def test_each_rule_can_be_given_by_hand(clean, saved, rules, left):
    assert clean(saved, *rules)[0] == 0
    assert there(saved)[-len(left) :] == left
    assert len(there(saved)) <= len(left) + 2  # hours and days may turn while the files are saved


def test_a_metric_that_no_checkpoint_has_is_taken_for_a_slip(clean, saved):
    code, _, err = clean(saved, "--keep-best", "los:min:2", "--keep-last", "1")
    assert (code, err.splitlines()[-1]) == (2, "hint: they have loss")
    assert there(saved) == list(range(8))


def test_rules_that_keep_nothing_at_all_are_taken_for_a_slip(clean, saved):
    for index in range(1, 8):
        os.rename(saved / f"model_{index}.pt", saved / f"model_{index}7.pt")
    os.unlink(saved / "model_0.pt")
    code, _, err = clean(saved, "--keep-every", "10")
    assert code == 1
    assert "refused: no rule keeps any of 7 checkpoints" in err
    assert len(there(saved)) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--keep-last", "0"), "0 is not in the range"),
        (("--keep-best", "loss:min:0"), "expected METRIC:min:N"),
        (("--keep-best", ":min:2"), "expected METRIC:min:N"),
        (("--keep-within", "7 days"), "expected a time, such as"),
        (("--max-total", "50 GB!"), "expected a size, such as"),
        (("--max-total", "9" * 400), "expected a size, such as"),
        (("--keep-best", "loss:min:" + "9" * 5000), "expected METRIC:min:N"),
        (("--verify", "all"), "--run and --verify go with a rule"),
        (("--run", "0123"), "--run and --verify go with a rule"),
        (("--keep-last", "1", "--verify", "some"), "some"),
        (("--undo", "--empty-trash"), "go alone"),
        (("--undo", "--keep-last", "1"), "go alone"),
        (("--to-trash", "--empty-trash"), "go alone"),
    ],
)
def test_a_wrong_option_is_a_usage_error_and_removes_nothing(clean, saved, arguments, message):
    code, out, err = clean(saved, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert there(saved) == list(range(8))


def test_several_runs_are_told_apart_in_a_column_of_their_own(
    clean, saved, make_checkpointer, make_checkpoint
):
    other = make_checkpointer(load_dir=None)
    other.save(make_checkpoint(), 20)
    code, out, _ = clean(saved, "--keep-last", "1", "--dry-run")
    assert code == 0
    assert out.splitlines()[0].split() == ["index", "size", "run", "why", "file"]
    assert other.run_id in out.splitlines()[-1]
    code, out, _ = clean(saved, "--keep-last", "1", "--run", other.run_id)
    assert there(saved) == [*range(8), 20]
    assert "left alone: of another run" in out


def test_the_trash_takes_and_gives_back(clean, saved):
    before = {path.name: path.read_bytes() for path in saved.glob("*.pt")}
    code, _, err = clean(saved, "--keep-last", "1", "--to-trash")
    assert code == 0
    assert f"7 files in {saved} went to its .trash" in err
    assert "hint: clean --undo brings them back" in err
    assert there(saved) == [7]
    code, out, err = clean(saved, "--undo", "--dry-run")
    assert (code, there(saved)) == (0, [7])
    assert out.splitlines()[0].startswith(f"would bring back {saved / 'model_0.pt'}")
    code, out, err = clean(saved, "--undo")
    assert (code, out.count("brought back")) == (0, 7)
    assert {path.name: path.read_bytes() for path in saved.glob("*.pt")} == before
    code, _, err = clean(saved, "--undo")
    assert (code, err) == (4, f"error: there is nothing in the trash: {saved}\n")


def test_plain_clean_goes_to_the_trash_too_and_emptying_frees_the_space(clean, saved):
    code, out, _ = clean(saved, "--to-trash")
    assert (code, out.splitlines()[0].split()[0]) == (0, "moved")
    assert there(saved) == []
    document = json.loads(clean(saved, "--empty-trash", "--dry-run", "--json")[1])
    assert len(document["removed"]) == 8
    assert document["bytes_freed"] > 1000
    code, _, err = clean(saved, "--empty-trash")
    assert code == 0
    assert err.startswith(f"8 files in {saved}, freed ")
    assert sorted(os.listdir(saved)) == []
    assert clean(saved, "--empty-trash")[0] == 0


def test_rules_let_what_dead_runs_left_half_written_go_too(clean, saved):
    rest = saved / ".weights.safetensors.host.1.0123abcd.marlin-tmp"
    rest.write_bytes(b"half")
    code, out, _ = clean(saved, "--keep-last", "8", "--dry-run")
    assert (code, out.splitlines()[-1]) == (0, f"would remove {rest}  4 B  (left by a dead run)")
    code, out, _ = clean(saved, "--keep-last", "8", "--to-trash", "--json")
    assert [one["path"] for one in json.loads(out)["removed"]] == [str(rest)]
    assert there(saved) == list(range(8))
    assert not rest.exists()


@pytest.mark.parametrize("options", [(), ("--keep-last", "1"), ("--dry-run",)])
def test_a_trash_of_somebody_else_is_refused_before_anything_is_removed(clean, saved, options):
    (saved / ".trash").mkdir()
    (saved / ".trash" / "notes.txt").write_bytes(b"of the user")
    code, out, err = clean(saved, "--to-trash", *options)
    assert (code, out) == (1, "")
    assert err.splitlines()[0].startswith("error: refused: not a trash of ours, notes.txt is in it: ")
    assert clean(saved, "--empty-trash")[0] == clean(saved, "--undo")[0] == 1
    assert there(saved) == list(range(8))
    assert (saved / ".trash" / "notes.txt").exists()


def test_undo_over_what_stands_in_its_place_fails_for_that_file_and_says_what_to_do(clean, saved):
    clean(saved, "--keep-last", "1", "--to-trash")
    (saved / "model_3.pt").write_bytes(b"new")
    code, out, err = clean(saved, "--undo")
    assert (code, out.count("brought back")) == (1, 6)
    assert f"error: cannot bring back: File exists: {saved / 'model_3.pt'}" in err
    assert (saved / "model_3.pt").read_bytes() == b"new"
    document = json.loads(clean(saved, "--undo", "--json")[1])
    assert [one["path"] for one in document["failed"]] == [str(saved / "model_3.pt")]


def test_the_newest_file_is_durable_before_any_goes(clean, saved, monkeypatch):
    events = []
    sync, unlink = os.fsync, os.unlink
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: events.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))) or sync(fd),
    )
    monkeypatch.setattr(os, "unlink", lambda name, **how: events.append("unlink") or unlink(name, **how))
    assert clean(saved, "--keep-last", "6")[0] == 0
    assert events == ["model_7.pt", saved.name, "unlink", "unlink"]


def test_a_directory_without_checkpoints_is_no_error(clean, tmp_path):
    assert clean(tmp_path, "--keep-last", "1") == (
        0,
        "",
        f"no checkpoints in {tmp_path}\n0 files in {tmp_path}, freed 0 B\n",
    )
    assert clean(tmp_path / "gone", "--keep-last", "1")[0] == 4


def test_a_run_that_has_no_checkpoint_there_is_not_found(clean, saved):
    code, out, err = clean(saved, "--keep-last", "1", "--run", "0123456789ab")
    assert (code, out) == (4, "")
    assert err == f"error: no checkpoint of run 0123456789ab: {saved}\n"
    assert there(saved) == list(range(8))


def test_what_a_dead_run_left_is_removed_and_not_said_to_be_in_the_trash(clean, saved):
    left = saved / f".model_9.pt.elsewhere.1.0123abcd{temporary.SUFFIX}"
    left.write_bytes(b"half")
    code, out, _ = clean(saved, "--to-trash")
    assert code == 0
    assert f"removed {left}  " in out
    assert f"moved {saved / 'model_1.pt'}  " in out
    assert not left.exists()
