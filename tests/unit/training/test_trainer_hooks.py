"""What a trainer asks of a checkpointer of the user's, who may have any of the methods of `TrainerHooks`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from marlin_ckpt import (
    AbstractCheckpointer,
    Checkpoint,
    SaveReport,
    StorageError,
    Trainer,
    TrainerArguments,
    TrainerHooks,
)
from marlin_ckpt.arguments import SpiralArguments
from marlin_ckpt.checkpointer.hooks import hooks_of
from marlin_ckpt.training.toys.spiral import Spiral

METHODS = sorted(name for name in vars(TrainerHooks) if not name.startswith("_"))


class Plain(AbstractCheckpointer):
    """Has the methods of PyMarlin's interface alone, and notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def save(self, checkpoint_state: Checkpoint, index: int, force: bool = False) -> str | None:
        self.calls.append(f"save {index}")
        return f"somewhere/{index}"

    def load(self) -> Checkpoint:
        return Checkpoint()


class Some(Plain):
    """Has a few of the hooks, without deriving from anything."""

    def wait(self) -> None:
        self.calls.append("wait")

    def is_due(self, index: int) -> bool:
        return index % 4 == 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.calls.append("begin")
        yield
        self.calls.append("end")


class Reporting(Plain):
    """Saves behind the loop, and says in `take_reports` what is durable."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[SaveReport] = []
        self.durable: list[SaveReport] = []

    def save(self, checkpoint_state: Checkpoint, index: int, force: bool = False) -> str | None:
        self.wait()
        path = super().save(checkpoint_state, index, force)
        zero = dict.fromkeys(("size_bytes", "stall_s", "copy_s", "write_s", "sync_s"), 0)
        self.pending.append(SaveReport(path=path or "", is_model=False, index=index, **zero))
        return path

    def wait(self) -> None:
        self.durable += self.pending
        self.pending = []

    def take_reports(self) -> list[SaveReport]:
        taken, self.durable = self.durable, []
        return taken


class Deriving(TrainerHooks, Plain):
    """Derives from `TrainerHooks`, and overrides two of its methods."""

    def register(self, *optimizers: Any) -> None:
        self.calls.append(f"register {len(optimizers)}")

    def check_space(self, state: Checkpoint, optimizers: Iterable[Any], indices: int) -> None:
        self.calls.append(f"check_space {type(state).__name__} {len(list(optimizers))} {indices}")


class Watching:
    """A trainer's observer, that notes what is saved."""

    def __init__(self) -> None:
        self.saved: list[tuple[str, int, bool]] = []

    def on_save(self, path: str, index: int, report: SaveReport | None) -> None:
        self.saved.append((path, index, report is not None))

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def trained(checkpointer: AbstractCheckpointer, **options: Any) -> Watching:
    watching = Watching()
    arguments = TrainerArguments(device="cpu", train_batch_size=10, **{"epochs": 2, **options})
    trainer = Trainer(
        Spiral(SpiralArguments(points=20)), arguments, checkpointer=checkpointer, observer=watching
    )
    trainer.train()
    return watching


def test_a_checkpointer_with_none_of_them_is_durable_when_its_save_returns():
    plain = Plain()
    assert trained(plain).saved == [("somewhere/0", 0, False), ("somewhere/1", 1, False)]
    assert plain.calls == ["save 0", "save 1"]


def test_a_checkpointer_that_has_some_of_them_is_asked_these():
    some = Some()
    trained(some, epochs=4, index_by="step")
    assert (some.calls[0], some.calls[-1]) == ("begin", "end")
    assert "wait" in some.calls
    indices = [int(one.split()[1]) for one in some.calls if one.startswith("save")]
    assert len(indices) > 1
    assert all(index % 4 == 0 for index in indices[:-1])


def test_the_reports_of_a_checkpointer_say_what_is_durable():
    reporting = Reporting()
    assert trained(reporting, epochs=3).saved == [(f"somewhere/{index}", index, True) for index in range(3)]
    assert (reporting.pending, reporting.durable) == ([], [])


def test_a_checkpointer_that_derives_from_them_overrides_what_it_likes():
    deriving = Deriving()
    assert len(trained(deriving).saved) == 2
    assert {"register 1", "check_space Checkpoint 1 2"} <= set(deriving.calls)


def test_what_its_wait_raises_ends_the_training():
    class Failing(Plain):
        def wait(self) -> None:
            raise StorageError("cannot write: no space left")

    with pytest.raises(StorageError, match="no space left"):
        trained(Failing())


@pytest.mark.parametrize("name", METHODS)
def test_an_attribute_of_such_a_name_that_is_no_method_is_not_called(name):
    plain = Plain()
    setattr(plain, name, False)
    assert len(trained(plain).saved) == 2
    assert getattr(hooks_of(plain), name) == getattr(hooks_of(Plain()), name)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_such_a_name_is_the_one_that_is_asked(name):
    plain = Plain()
    own = getattr(TrainerHooks(), name)
    setattr(plain, name, own)
    assert getattr(hooks_of(plain), name) is own
