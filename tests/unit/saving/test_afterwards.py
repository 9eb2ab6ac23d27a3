"""Removals and links that wait for saves behind the loop."""

from __future__ import annotations

import os

import pytest

from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving.afterwards import Afterwards


@pytest.fixture
def one():
    return Afterwards()


@pytest.fixture
def path(tmp_path):
    return lambda name: str(tmp_path / name)


@pytest.fixture
def names(tmp_path):
    return lambda: sorted(os.listdir(tmp_path))


def saved(path):
    with open(path, "w") as file:
        file.write(path)
    times = dict.fromkeys(["stall_s", "copy_s", "write_s", "sync_s"], 0.0)
    return SaveReport(path=path, is_model=False, index=0, size_bytes=1, **times)


def test_a_file_goes_when_the_save_that_replaces_it_is_durable(one, path, names):
    saved(path("a"))
    one.begin(path("b"))
    one.remove(path("a"))
    assert names() == ["a"]
    one.durable(saved(path("b")))
    assert names() == ["b"]


def test_a_file_that_is_to_go_after_the_next_save_waits_for_the_one_that_has_not_begun(one, path, names):
    saved(path("a"))
    one.begin(path("b"))
    one.remove(path("a"), after_next=True)
    one.durable(saved(path("b")))
    one.all_durable()
    assert names() == ["a", "b"]
    one.begin(path("c"))
    assert names() == ["a", "b"]
    one.durable(saved(path("c")))
    assert names() == ["b", "c"]


def test_what_waits_for_a_save_is_not_done_when_the_one_before_it_is_durable(one, path, names):
    one.begin(path("a"))
    one.begin(path("b"))  # which waits for the first
    one.durable(saved(path("a")))
    one.link(path("b"), path("last"))
    one.remove(path("a"))
    assert names() == ["a"]
    one.durable(saved(path("b")))
    assert names() == ["b", "last"]
    assert os.readlink(path("last")) == "b"


def test_without_a_save_under_way_a_file_and_a_folder_go_at_once_and_nothing_is_no_error(one, path, names):
    saved(path("a"))
    os.makedirs(path("b/c"))
    for name in ("a", "b", "none"):
        one.remove(path(name))
    assert names() == []


def test_a_link_goes_and_what_it_leads_to_stays(one, path, names):
    saved(path("a"))
    os.mkdir(path("b"))
    for number, name in enumerate("ab"):
        one.link(path(name), path(f"link{number}"))
        one.remove(path(f"link{number}"))
    assert names() == ["a", "b"]


def test_a_file_that_a_link_leads_to_goes_when_the_link_leads_elsewhere(one, path, names):
    saved(path("a"))
    one.link(path("a"), path("last"))
    saved(path("b"))
    one.remove(path("a"))
    assert names() == ["a", "b", "last"]
    one.link(path("b"), path("last"))
    assert names() == ["b", "last"]


def test_in_the_end_it_goes_also_where_a_link_leads_to_it(one, path, names):
    saved(path("a"))
    os.symlink("a", path("mine"))
    one.remove(path("a"))
    one.all_durable()
    assert names() == ["a", "mine"]
    one.all_durable(is_last=True)
    assert names() == ["mine"]


def test_a_link_takes_the_place_of_a_file_and_of_what_a_killed_process_left(one, path, names):
    saved(path("a"))
    saved(path("last"))
    os.symlink("nowhere", path(".last.link"))
    one.link(path("a"), path("last"))
    assert (names(), os.readlink(path("last"))) == (["a", "last"], "a")


def test_after_a_save_that_failed_the_files_before_it_stay(one, path, names, caplog):
    one.link(saved(path("a")).path, path("last"))
    one.begin(path("b"))
    one.link(path("b"), path("last"))
    one.remove(path("a"))
    one.give_up()
    one.all_durable(is_last=True)
    assert names() == ["a", "last"]
    assert f"Kept {path('a')}" in caplog.text


def test_a_save_after_one_that_failed_does_what_waited_for_that_but_for_links_to_nothing(one, path, names):
    one.link(saved(path("a")).path, path("last"))
    one.begin(path("b"))
    one.link(path("b"), path("last"))
    one.begin(path("c"))
    one.durable(saved(path("c")))
    assert (names(), os.readlink(path("last"))) == (["a", "c", "last"], "a")


def test_a_file_that_is_saved_anew_before_it_was_removed_stays(one, path, names):
    saved(path("a"))
    one.begin(path("b"))
    one.remove(path("a"))
    one.begin(path("a"))
    one.durable(saved(path("b")))
    one.durable(saved(path("a")))
    assert names() == ["a", "b"]
