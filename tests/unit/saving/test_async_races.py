"""In-place changes outside of a step, while another thread copies what they change."""

from __future__ import annotations

import ctypes
import os
import random
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from marlin_ckpt import Checkpoint
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.formats.torch.memory import identity
from marlin_ckpt.saving.copying import snapshot, staging
from marlin_ckpt.saving.writing.content import Pieces
from tests.support.async_runs import checkpointer
from tests.support.async_trainings import CopiesAtTheBarrier, is_behind, without_versions


class Large:
    """Parameters of several megabytes each."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.tensors = [torch.nn.Parameter(torch.rand(1 << 20)) for _ in range(6)]
        self.optimizer = torch.optim.SGD(self.tensors, lr=0.1)

    def checkpoint(self):
        return Checkpoint(dict(enumerate(self.tensors)), {}, {})

    def copies(self):
        return [one.detach().clone() for one in self.tensors]

    def race(self, chance):
        """Changes parameters on this thread while another one copies them."""
        for _ in range(chance.randrange(1, 4)):
            for _ in range(chance.choice([0, 0, 100, 1000, 10_000])):
                pass
            one = chance.choice(self.tensors)
            with torch.no_grad():
                chance.choice([
                    lambda: one.add_(1),  # noqa: B023
                    lambda: one.clamp_(0.2, 0.5),  # noqa: B023
                    one.normal_,
                    one.exponential_,
                    lambda: one[::3].mul_(2),  # noqa: B023
                    lambda: torch._foreach_add_(self.tensors, 1),
                ])()  # fmt: skip


def raced(directory, caplog, seed):
    """What became of a file whose tensors changed while they were copied."""
    chance, large = random.Random(seed), Large(seed)
    caplog.clear()
    with checkpointer(directory) as one:
        one.register(large.optimizer)
        wanted = large.copies()
        path = one.save(large.checkpoint(), seed)
        large.race(chance)
        if chance.random() < 0.5:
            large.optimizer.step()
    if not os.path.exists(path):
        assert "changed outside of an optimizer's step" in caplog.text
        return "given up"
    found = torch.load(path)["module_interface_state"].values()
    os.remove(path)
    return "right" if all(map(torch.equal, found, wanted)) else "torn"


def test_an_in_place_change_during_the_copy_never_leaves_a_file_that_is_torn(directory, caplog, cases):
    outcomes = [raced(directory, caplog, seed) for seed in range(cases(15, 300))]
    assert "torn" not in outcomes
    assert "given up" in outcomes


def test_where_versions_are_not_compared_the_same_races_tear_files(directory, caplog, monkeypatch):
    without_versions(monkeypatch)
    CopiesAtTheBarrier(monkeypatch)
    assert "torn" in [raced(directory, caplog, seed) for seed in range(3)]


class HalfWay(TorchDispatchMode):
    """An `add_` that another thread sees half done, as any that takes long enough can be seen."""

    def __init__(self, meanwhile):
        super().__init__()
        self._meanwhile = meanwhile

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        if function is torch.ops.aten.add_.Tensor:
            tensor = args[0]
            ctypes.memset(tensor.data_ptr(), 0, tensor.nbytes // 2)
            self._meanwhile()
        return function(*args, **(kwargs or {}))


def test_nor_does_one_change_that_takes_longer_than_the_whole_save(directory, monkeypatch):
    large = Large(0)
    begun, decided = threading.Event(), threading.Event()
    work, write = staging.Copying.work, writer.write_image

    def copied_then(copying):
        assert not is_behind() or begun.wait(60)
        work(copying)

    def decided_then(*args):
        try:
            return write(*args)
        finally:
            decided.set()

    monkeypatch.setattr(staging.Copying, "work", copied_then)
    monkeypatch.setattr(writer, "write_image", decided_then)

    def meanwhile():
        begun.set()
        decided.wait(1)  # a save that waits for this thread is right to do so

    with checkpointer(directory) as one:
        one.register(large.optimizer)
        wanted = large.copies()
        path = one.save(large.checkpoint(), 0)
        with torch.no_grad(), HalfWay(meanwhile):
            large.tensors[0].add_(1)
    if os.path.exists(path):
        found = torch.load(path)["module_interface_state"].values()
        assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_caller_who_neither_steps_nor_waits_again_has_his_file_all_the_same(
    directory, monkeypatch, has_ended
):
    monkeypatch.setattr(staging, "_PATIENCE_S", 3600 if has_ended else 0.01)
    large, saved = Large(0), []
    one = checkpointer(directory)
    one.register(large.optimizer)
    caller = threading.Thread(target=lambda: saved.append(one.save(large.checkpoint(), 0)))
    caller.start()
    caller.join()
    for thread in threading.enumerate():
        if thread.name == "marlin-ckpt save":
            thread.join(60)
    assert os.path.exists(saved[0])
    one.close()


def test_of_a_storage_that_has_changed_each_piece_is_named():
    one = torch.ones(8)
    storage = one.untyped_storage()
    pieces = Pieces(("first", "second"), (storage, storage), (0, 16), (16, 16), (0, 16))
    watched = staging.Watched((one,), (one._version,), (identity(storage),))
    image = memoryview(bytearray(32))
    taken = snapshot.take(pieces, image, watched, is_checked=False)
    one.add_(1)
    assert taken.copying.settle() == ("first", "second")
