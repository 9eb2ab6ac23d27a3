"""Where a report puts a file whose save is not in the history: among the saves of its run that are."""

from __future__ import annotations

import pytest

from marlin_ckpt.directory.history.events import Removed, Resumed
from marlin_ckpt.operations.report.gathering import gather
from tests.support.run_directories import ONE, OTHER, at, event, manifest, save, write


def order(directory):
    return [(one.name, one.save_number) for one in gather(str(directory)).points]


@pytest.mark.parametrize("minute", [2, 50])  # by the clock between the two, or after both
def test_a_file_that_the_history_lacks_stands_between_the_saves_before_and_after_it(tmp_path, minute):
    save(tmp_path, 1, minute)
    write(tmp_path, save(tmp_path, 0, 1), save(tmp_path, 2, 3))
    save(tmp_path, 0, 9, run_id=OTHER, name="other_0.pt")
    assert order(tmp_path) == [("model_0.pt", 1), ("model_1.pt", 2), ("model_2.pt", 3), ("other_0.pt", 1)]


def test_a_file_that_the_history_lacks_stands_after_the_resume_that_its_run_had_before_it(tmp_path):
    told = [event(manifest(index, 1 + index), f"a_{index}.pt") for index in range(3)]
    again = save(tmp_path, 2, 9, name="b_2.pt")
    gone = Removed(run_id=ONE, at=at(3), name="a_1.pt", index=1)
    write(tmp_path, *told, gone, Resumed(run_id=ONE, at=at(7), name="a_0.pt"), again)
    save(tmp_path, 1, 8, name="b_1.pt")
    assert order(tmp_path) == [("a_0.pt", 1), ("a_1.pt", 2), ("a_2.pt", 3), ("b_1.pt", 2), ("b_2.pt", 3)]


def test_a_file_that_a_killed_process_wrote_last_stands_before_the_resume(tmp_path):
    save(tmp_path, 2, 3, name="a_2.pt")
    again = [save(tmp_path, 2, 8, name="b_2.pt"), save(tmp_path, 3, 9, name="b_3.pt")]
    told = [event(manifest(index, 1 + index), f"a_{index}.pt") for index in range(2)]
    write(tmp_path, *told, Resumed(run_id=ONE, at=at(7), name="a_1.pt"), *again)
    assert order(tmp_path) == [("a_0.pt", 1), ("a_1.pt", 2), ("a_2.pt", 3), ("b_2.pt", 3), ("b_3.pt", 4)]


def test_a_copy_stands_after_what_it_is_a_copy_of_whatever_the_clock_was(tmp_path):
    write(tmp_path, save(tmp_path, 0, 30), save(tmp_path, 1, 2), save(tmp_path, 2, 1))
    (tmp_path / "copy_1.pt").write_bytes((tmp_path / "model_1.pt").read_bytes())
    names = ["model_0.pt", "model_1.pt", "copy_1.pt", "model_2.pt"]
    assert [name for name, _ in order(tmp_path)] == names
