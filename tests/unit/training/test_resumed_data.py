"""A run that goes on within an epoch trains on just the samples that are left, whatever has changed since."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from marlin_ckpt import (
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    ModuleInterface,
    Preempted,
    StateMismatchError,
)
from tests.support.stopped_runs import StopsAt, trainer_in

SAMPLES = 48


class Numbers(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(float(SAMPLES)))


class Noting(ModuleInterface):
    """Notes the numbers of the samples that it is trained on."""

    def __init__(self, loader: str = "sampler", samples: int = SAMPLES, **options):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.loader, self.options = loader, options
        self.data: Dataset = torch.arange(float(samples))  # type: ignore[assignment]
        self.seen: list[int] = []
        self.rates: list[float] = []

    def get_optimizers_schedulers(self, estimated_global_steps_per_epoch, epochs):
        return [torch.optim.SGD(self.parameters(), lr=0.1)], []

    def get_train_dataloader(self, sampler, batch_size):
        if self.loader in ("shuffled", "in order"):
            return DataLoader(self.data, batch_size, shuffle=self.loader == "shuffled", **self.options)
        if self.loader == "stream":
            return DataLoader(Numbers(), batch_size, **self.options)
        if self.loader == "unbatched":
            return DataLoader(self.data, None, sampler=sampler(self.data), **self.options)
        if self.loader.startswith("stateful"):
            from torchdata.stateful_dataloader import StatefulDataLoader

            order = {"shuffle": True} if "shuffled" in self.loader else {"sampler": sampler(self.data)}
            return StatefulDataLoader(self.data, batch_size, **order, **self.options)
        return DataLoader(self.data, batch_size, sampler=sampler(self.data), **self.options)

    def get_val_dataloaders(self, sampler, batch_size):
        return DataLoader(self.data[:2], batch_size)

    def train_step(self, global_step, batch, device):
        self.seen += batch.reshape(-1).int().tolist()
        return (self.weight - batch.mean()).square().mean() / 1000

    def val_step(self, global_step, batch, device):
        return batch


def stopped(tmp_path, stop: int, *args, **fields) -> list[int]:
    """Trains one epoch until a step; returns the samples that were trained on."""
    trainer = trainer_in(tmp_path, StopsAt(stop), lambda: Noting(*args), epochs=1, **fields)
    with pytest.raises(Preempted):
        trainer.train()
    return trainer.module.seen


def resumed(tmp_path, *args, options=None, **fields) -> list[int]:
    trainer = trainer_in(tmp_path, None, lambda: Noting(*args, **(options or {})), epochs=1, **fields)
    trainer.train()
    return trainer.module.seen


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 with torch 2.13
@pytest.mark.parametrize(
    "now", [{"train_batch_size": 5}, {"gpu_batch_size_limit": 2}, {"train_batch_size": 16}]
)
@pytest.mark.parametrize(
    "loader", ["sampler", "shuffled", "in order", "stateful", "stateful shuffled", "unbatched"]
)
def test_with_another_batch_size_each_sample_of_the_epoch_is_still_trained_on_once(tmp_path, loader, now):
    first = stopped(tmp_path, 3, loader)
    rest = resumed(tmp_path, loader, **now)
    assert sorted(first + rest) == list(range(SAMPLES))


@pytest.mark.parametrize("loader", ["sampler", "shuffled"])
def test_a_changed_batch_size_leaves_the_order_of_the_samples_as_it_was_also_twice(tmp_path, loader):
    whole = resumed(tmp_path / "whole", loader)
    cut = stopped(tmp_path / "cut", 2, loader)
    cut += stopped(tmp_path / "cut", 5, loader, train_batch_size=5)
    cut += resumed(tmp_path / "cut", loader, train_batch_size=4)
    assert cut == whole


def test_batches_of_a_stream_that_cannot_be_cut_are_trained_on_again_and_that_is_said(tmp_path, caplog):
    first = stopped(tmp_path, 1, "stream", max_train_steps_per_epoch=9)
    rest = resumed(tmp_path, "stream", train_batch_size=5, max_train_steps_per_epoch=20)
    assert first == list(range(8))
    assert rest == list(range(5, SAMPLES))
    assert "3 samples of the epoch are trained on twice, as batches are of 5" in caplog.text


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_stateful_loader_with_another_number_of_workers_goes_on_by_the_count_of_samples(tmp_path, caplog):
    first = stopped(tmp_path, 3, "stateful")
    rest = resumed(tmp_path, "stateful", options={"num_workers": 1})
    assert sorted(first + rest) == list(range(SAMPLES))
    assert "train_loader.workers was none and is 1" in caplog.text


@pytest.mark.parametrize(
    ("before", "now", "options", "says"),
    [
        ("sampler", "shuffled", {}, "train_loader.sampler was EpochSampler and is RandomSampler"),
        ("shuffled", "in order", {}, "train_loader.sampler was RandomSampler and is SequentialSampler"),
        ("sampler", "sampler", {"drop_last": True}, "train_loader.drop_last was False and is True"),
        ("sampler", "sampler", {"samples": 64}, "train_samples was 48 and is 64"),
        ("sampler", "sampler", {"samples": 20}, "train_samples was 48 and is 20"),
        ("stream", "stream", {"num_workers": 1}, "train_loader.workers was none and is 1"),
    ],
)
@pytest.mark.parametrize("stop", [3, 0], ids=["within", "between"])
def test_other_data_and_another_loader_are_announced_and_refused_when_it_must_be_exact(
    tmp_path, caplog, before, now, options, says, stop
):
    limit = {"max_train_steps_per_epoch": 6}
    if stop:
        stopped(tmp_path, stop, before, **limit)
    else:
        resumed(tmp_path, before, **limit)
    module = Noting(now, **options)
    for _ in range(2):  # the refusal leaves nothing that a second one would go on from
        with pytest.raises(StateMismatchError) as caught:
            trainer_in(tmp_path, None, lambda: module, epochs=2, exact=True, **limit).train()
        assert says in caught.value.differences
        assert module.seen == []
    trainer_in(tmp_path, None, lambda: module, epochs=2, **limit).train()
    assert says in caplog.text


def test_data_that_the_module_itself_makes_new_for_an_epoch_are_no_change(tmp_path, caplog):
    class Growing(Noting):
        def on_begin_train_epoch(self, global_step, epoch):
            self.data = torch.arange(8.0 * (epoch + 3))

    trainer_in(tmp_path, None, Growing, epochs=2).train()
    trainer_in(tmp_path, None, Growing, epochs=3, exact=True).train()
    assert "not be exact" not in caplog.text


def as_by_an_older_version(tmp_path, *conditions) -> None:
    """Leaves of a checkpoint the conditions that are named and a position in batches."""
    loader = DefaultCheckpointerArguments(load_dir=str(tmp_path), save_dir=str(tmp_path))
    loaded = DefaultCheckpointer(loader).load()
    state = loaded.trainer_state
    kept = {"seed", "torch", "device", *conditions}
    state["conditions"] = {name: one for name, one in state["conditions"].items() if name in kept}
    epoch = state["position"]["epoch"]
    state["position"]["epoch"] = {name: epoch[name] for name in ("batches", "rng", "loader")}
    DefaultCheckpointer(loader).save(loaded, 0)


def test_an_older_file_with_its_position_in_batches_and_without_these_conditions_is_read_in_silence(
    tmp_path, caplog
):
    first = stopped(tmp_path, 3)
    as_by_an_older_version(tmp_path, "train_batch_size")
    rest = resumed(tmp_path, exact=True)
    assert sorted(first + rest) == list(range(SAMPLES))
    assert "not be exact" not in caplog.text


@pytest.mark.parametrize("loader", ["sampler", "in order", "shuffled"])
@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({}, {"train_batch_size": 4}),
        ({}, {"train_batch_size": 24}),
        ({}, {"gpu_batch_size_limit": 2}),
        ({"gpu_batch_size_limit": 4}, {}),
        ({"gpu_batch_size_limit": 4}, {"train_batch_size": 6, "gpu_batch_size_limit": 3}),
    ],
)
def test_an_older_files_position_in_batches_counts_the_samples_of_the_batches_of_then(
    tmp_path, loader, then, now
):
    first = stopped(tmp_path, 3, loader, **then)
    as_by_an_older_version(tmp_path, "train_batch_size", "gpu_batch_size_limit")
    assert sorted(first + resumed(tmp_path, loader, **now)) == list(range(SAMPLES))


def test_an_older_files_position_is_the_same_after_a_stop_before_its_data_were_opened(tmp_path):
    first = stopped(tmp_path, 3)
    as_by_an_older_version(tmp_path, "train_batch_size", "gpu_batch_size_limit")
    trainer = trainer_in(tmp_path, None, Noting, epochs=1, train_batch_size=4)
    trainer.save_checkpoint(force=True)
    assert sorted(first + resumed(tmp_path, train_batch_size=4)) == list(range(SAMPLES))


def test_a_module_that_makes_batches_of_its_own_size_resumes_from_an_older_file_by_that_size(tmp_path):
    class Stubborn(Noting):
        def get_train_dataloader(self, sampler, batch_size):
            return super().get_train_dataloader(sampler, 6)

    trainer = trainer_in(tmp_path, StopsAt(3), Stubborn, epochs=1)
    with pytest.raises(Preempted):
        trainer.train()
    as_by_an_older_version(tmp_path, "train_batch_size", "gpu_batch_size_limit")
    again = trainer_in(tmp_path, None, Stubborn, epochs=1, train_batch_size=4)
    again.train()
    assert sorted(trainer.module.seen + again.module.seen) == list(range(SAMPLES))


@pytest.mark.parametrize("epochs", [1, 2])
def test_fewer_epochs_than_have_begun_are_announced_and_refused_when_it_must_be_exact(
    tmp_path, caplog, epochs
):
    with pytest.raises(Preempted):
        trainer_in(tmp_path, StopsAt(14), Noting, epochs=3).train()
    says = f"3 epochs have begun and epochs is {epochs}, so that nothing is trained"
    with pytest.raises(StateMismatchError, match=says):
        trainer_in(tmp_path, None, Noting, epochs=epochs, exact=True)
    caplog.clear()
    trainer = trainer_in(tmp_path, None, Noting, epochs=epochs)
    trainer.train()
    assert caplog.messages == [
        f"Nothing is left to train: epoch 2 is done, and trainer.epochs is {epochs}. Raise it to train on."
    ]
    assert trainer.module.seen == []


def test_a_lower_limit_of_steps_ends_an_epoch_that_has_passed_it(tmp_path):
    stopped(tmp_path, 4)
    assert resumed(tmp_path, max_train_steps_per_epoch=2) == []


def test_a_stream_is_told_its_epoch(tmp_path):
    class Told(Numbers):
        epochs: list[int] = []

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    class Streaming(Noting):
        def get_train_dataloader(self, sampler, batch_size):
            return DataLoader(Told(), batch_size)

    trainer_in(tmp_path, None, Streaming, epochs=2, max_train_steps_per_epoch=2).train()
    assert Told.epochs == [0, 1]


def test_an_epoch_without_a_batch_ends_well_and_is_saved(tmp_path):
    class Few(Noting):
        def get_train_dataloader(self, sampler, batch_size):
            data = TensorDataset(self.data[:3])
            return DataLoader(data, batch_size, sampler=sampler(data), drop_last=True)

    observer = StopsAt()
    trainer = trainer_in(tmp_path, observer, Few, epochs=2)
    trainer.train()
    assert sorted(set(observer.saved)) == ["model_0.pt", "model_1.pt"]
    assert (trainer.last_epoch, trainer.global_steps_finished, observer.metrics) == (1, 0, {})
    trainer_in(tmp_path, None, Few, epochs=3, exact=True).train()
