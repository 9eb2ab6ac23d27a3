"""Asynchronous saves: what they hold, and when they count."""

from __future__ import annotations

import copy
import ctypes
import os
import threading

import pytest
import torch

from marlin_ckpt import Checkpoint, get_latest_file, verify
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.saving.copying import staging
from marlin_ckpt.saving.copying.snapshot import Snapshot
from marlin_ckpt.storage.writer import Writer
from tests.support.async_runs import Gate, LateCopies, Run, checkpointer, same


def test_each_file_holds_what_the_states_were_when_its_save_was_asked_for(tmp_path):
    run, wanted = Run(), {}
    with checkpointer(tmp_path) as one:
        for index in range(8):
            run.step()
            wanted[index] = copy.deepcopy(run.checkpoint().payload())
            one.save(run.checkpoint(), index)
    for index, payload in wanted.items():
        assert same(torch.load(tmp_path / f"model_{index}.pt"), payload), index


def test_what_an_optimizer_owns_is_copied_before_its_next_step_and_not_after(tmp_path, late):
    run = Run()
    run.step()
    with checkpointer(tmp_path) as one:
        one.register(run.optimizer)
        wanted = copy.deepcopy(run.checkpoint().payload())
        one.save(run.checkpoint(), 0)
        run.step()
        late.release()
        one.wait()
        assert same(torch.load(tmp_path / "model_0.pt"), wanted)


def test_nothing_is_written_while_the_step_that_waits_for_the_copy_is_still_copying(tmp_path, monkeypatch):
    run, gate, begun = Run(), Gate(monkeypatch), threading.Event()
    gate.opened.set()
    run.step()
    wanted = copy.deepcopy(run.checkpoint().payload())
    work, memmove, written_too_early = staging.Copying.work, ctypes.memmove, []

    def left_to_the_step(copying):
        if threading.current_thread().name == "marlin-ckpt save":
            assert begun.wait(60)
        work(copying)

    def slowly(*args):
        if not begun.is_set() and one_is_saving:
            begun.set()
            written_too_early.append(gate.reached.wait(0.5))
        memmove(*args)

    one_is_saving = False
    monkeypatch.setattr(staging.Copying, "work", left_to_the_step)
    monkeypatch.setattr(staging.ctypes, "memmove", slowly)
    with checkpointer(tmp_path) as one:
        one.register(run.optimizer)
        one.save(run.checkpoint(), 0)
        one_is_saving = True
        run.step()
    assert written_too_early == [False]
    assert same(torch.load(tmp_path / "model_0.pt"), wanted)


def test_the_copy_behind_begins_once_its_thread_is_started_so_that_the_caller_has_not_to_wait_for_it(
    tmp_path, monkeypatch
):
    run, begun, too_early = Run(), threading.Event(), []
    start, copy_behind = threading.Thread.start, Snapshot.copy_behind

    def watched(thread):
        start(thread)
        if thread.name == "marlin-ckpt save":
            too_early.append(begun.wait(0.05))

    monkeypatch.setattr(threading.Thread, "start", watched)
    monkeypatch.setattr(Snapshot, "copy_behind", lambda one: begun.set() or copy_behind(one))
    with checkpointer(tmp_path) as one:
        one.save(run.checkpoint(), 0)
    assert too_early == [False]
    assert begun.is_set()


def test_what_a_forward_pass_changes_is_copied_before_save_returns(tmp_path, late):
    run = Run()
    run.step()
    with checkpointer(tmp_path) as one:
        one.register(run.optimizer)
        mean = run.module[1].running_mean.clone()
        one.save(run.checkpoint(), 0)
        run.forward()
        assert not torch.equal(run.module[1].running_mean, mean)
        late.release()
        one.wait()
        assert torch.equal(
            torch.load(tmp_path / "model_0.pt")["module_interface_state"]["1.running_mean"], mean
        )


def test_an_optimizer_is_known_from_its_first_step_after_the_first_save(tmp_path, monkeypatch):
    run = Run()
    counts = []
    init = staging.Copying.__init__

    def counting(self, copies, watched, wrong, **how):
        counts.append(len(watched.tensors))
        init(self, copies, watched, wrong, **how)

    monkeypatch.setattr(staging.Copying, "__init__", counting)
    with checkpointer(tmp_path) as one:
        for index in range(2):
            run.step()
            one.save(run.checkpoint(), index)
    parameters = list(run.module.parameters())
    assert counts[0] == 0
    assert counts[1] == 4 * len(parameters)  # each with two moments and a count of steps


def test_a_change_outside_of_a_step_gives_the_save_up_names_the_tensor_and_ends_the_overlap(
    tmp_path, late, caplog
):
    run = Run()
    run.step()
    with checkpointer(tmp_path) as one:
        one.register(run.optimizer)
        one.save(run.checkpoint(), 0)
        with torch.no_grad():
            run.module[2].weight.clamp_(-0.01, 0.01)
        late.release()
        one.wait()
        assert not (tmp_path / "model_0.pt").exists()
        assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
        assert "module_interface_state.2.weight changed" in caplog.text
        wanted = copy.deepcopy(run.checkpoint().payload())
        one.save(run.checkpoint(), 1)
        with torch.no_grad():
            run.module[2].weight.zero_()
        one.wait()
        assert same(torch.load(tmp_path / "model_1.pt"), wanted)
    assert sorted(os.listdir(tmp_path)) == ["model_1.pt"]


@pytest.mark.parametrize("is_checked", [False, True])
def test_a_write_through_data_is_caught_where_checksums_are_compared_and_only_there(
    tmp_path, late, caplog, is_checked
):
    run = Run()
    run.step()
    with checkpointer(tmp_path, check_overlap=is_checked) as one:
        one.register(run.optimizer)
        one.save(run.checkpoint(), 0)
        run.module[0].bias.data.add_(1)
        late.release()
        one.wait()
    assert (tmp_path / "model_0.pt").exists() is not is_checked
    assert ("module_interface_state.0.bias changed" in caplog.text) is is_checked


def test_without_overlap_everything_is_copied_before_save_returns(tmp_path, gate):
    run = Run()
    run.step()
    with checkpointer(tmp_path, overlap=False) as one:
        wanted = copy.deepcopy(run.checkpoint().payload())
        one.save(run.checkpoint(), 0)
        with torch.no_grad():
            for parameter in run.module.parameters():
                parameter.zero_()
        gate.opened.set()
        one.wait()
        assert same(torch.load(tmp_path / "model_0.pt"), wanted)


def test_a_save_counts_only_when_it_is_durable(tmp_path, gate):
    run = Run()
    with checkpointer(tmp_path) as one:
        path = one.save(run.checkpoint(), 3)
        assert gate.reached.wait(60)
        assert get_latest_file(tmp_path, "model") == ""
        assert one.take_reports() == []
        gate.opened.set()
        one.wait()
        assert get_latest_file(tmp_path, "model") == path
        (report,) = one.take_reports()
    assert (report.path, report.index, report.is_model) == (path, 3, False)
    assert report.size_bytes == os.path.getsize(path)


def test_load_waits_for_the_save_under_way(tmp_path, gate):
    run = Run()
    with checkpointer(tmp_path) as one:
        one.save(run.checkpoint(), 0)
        assert gate.reached.wait(60)
        gate.opened.set()
        assert same(one.load().payload(), run.checkpoint().payload())


def test_a_busy_writer_makes_a_save_be_skipped_where_that_is_asked_for_unless_it_is_forced(
    tmp_path, gate, caplog
):
    run = Run()
    with checkpointer(tmp_path, when_busy="skip") as one:
        one.save(run.checkpoint(), 0)
        assert gate.reached.wait(60)
        assert one.save(run.checkpoint(), 1) is None
        assert "Skipped" in caplog.text
        threading.Timer(0, gate.opened.set).start()
        assert one.save(run.checkpoint(), 2, force=True)
    assert sorted(os.listdir(tmp_path)) == ["model_0.pt", "model_2.pt"]


def test_a_file_saved_behind_is_byte_for_byte_the_one_that_is_saved_at_once(tmp_path):
    run = Run()
    run.step()
    for name, is_async in (("a", True), ("b", False)):
        with checkpointer(tmp_path / name, async_save=is_async) as one:
            one.run_id = "0" * 12
            one.save(run.checkpoint(), 0)
    left, right = ((tmp_path / name / "model_0.pt").read_bytes() for name in "ab")
    assert len(left) == len(right)  # the hour in the manifest and its checksum may differ
    assert sum(one != other for one, other in zip(left, right, strict=True)) < 64


@pytest.mark.parametrize("layout", ["file", "sharded"])
@pytest.mark.parametrize("is_behind", [True, False])
def test_what_is_copied_behind_the_loop_is_summed_there_and_not_read_again(
    tmp_path, monkeypatch, is_behind, layout
):
    parameters = [torch.nn.Parameter(torch.rand(length)) for length in (5 << 18, 3, 1 << 18, 70_001)]
    optimizer = torch.optim.SGD(parameters)
    late = None if is_behind else LateCopies(monkeypatch)
    summed, put = [], Writer.put

    def counted(self, data, on_stored=None, crc32=None, same=None):
        summed.append(len(data) if crc32 is None else 0)
        return put(self, data, on_stored, crc32, same)

    monkeypatch.setattr(Writer, "put", counted)
    monkeypatch.setattr(staging, "_TASK_BYTES", 3 << 19)  # tasks end within tensors
    monkeypatch.setattr(staging, "_PATIENCE_S", 0)
    with checkpointer(tmp_path, layout=layout) as one:
        one.register(optimizer)
        path = one.save(Checkpoint(dict(enumerate(parameters)), {}, {}), 0)
        if late is None:
            next(one for one in threading.enumerate() if one.name == "marlin-ckpt save").join()
        else:
            optimizer.step()  # which copies all, and does not take the time to sum it
            late.release()
    assert verify(path).status is Status.INTACT
    total = sum(one.nbytes for one in parameters)
    assert sum(summed) < 64 << 10 if is_behind else sum(summed) > total
