"""The two modules of our own: that they learn, and what they refuse."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import SequentialSampler

from marlin_ckpt import (
    AbstractCheckpointer,
    ArgumentsError,
    Checkpoint,
    ConfigError,
    DefaultCheckpointerArguments,
    StateMismatchError,
    Trainer,
    TrainerArguments,
)
from marlin_ckpt.arguments import SpiralArguments, TextArguments
from marlin_ckpt.cli.main import main
from marlin_ckpt.training.toys.spiral import Spiral
from marlin_ckpt.training.toys.text import Text


class Metrics(AbstractCheckpointer):
    """Keeps the metrics of each epoch."""

    def __init__(self):
        self.epochs: list[dict[str, float]] = []

    def save(self, checkpoint_state, index, force=False):
        if not force:
            self.epochs.append(checkpoint_state.metrics)

    def load(self):
        return Checkpoint()


def _metrics(module, **arguments) -> list[dict[str, float]]:
    """The metrics of each epoch of a training."""
    torch.manual_seed(0)
    kept = Metrics()
    Trainer(module, TrainerArguments(device="cpu", **arguments), checkpointer=kept).train()
    return kept.epochs


def _write(directory: Path, text: str, name: str = "text.txt") -> str:
    (directory / name).write_text(text, encoding="utf-8")
    return str(directory / name)


def _text(directory: Path, text: str = "abc" * 100, **fields) -> Text:
    small = {"width": 8, "depth": 1, "heads": 2, "context": 8}
    return Text(TextArguments(files=[_write(directory, text)], **{**small, **fields}))


def test_text_learns_more_of_a_real_text_than_how_frequent_its_letters_are(repository):
    file = repository / "configs" / "sonnets.txt"
    text = file.read_text(encoding="utf-8")
    frequencies = [count / len(text) for count in Counter(text).values()]
    entropy = -sum(share * math.log(share) for share in frequencies)
    torch.manual_seed(0)
    arguments = TextArguments(files=[str(file)], width=48, depth=1, context=32, learning_rate=4e-3)
    epochs = _metrics(Text(arguments), epochs=6, train_batch_size=8, val_batch_size=64)
    losses = [epoch["train_loss"] for epoch in epochs]
    assert losses[-1] < 0.85 * losses[0]
    assert epochs[-1]["val_loss"] < 0.9 * entropy


def test_text_reads_each_letter_of_a_repeating_text_from_those_before_it(tmp_path):
    torch.manual_seed(0)
    module = _text(tmp_path, "abcdefgh" * 100, width=16, learning_rate=1e-2)
    epochs = _metrics(module, epochs=6, train_batch_size=8, val_batch_size=64)
    assert epochs[0]["train_loss"] > 1.0
    assert epochs[-1]["val_loss"] < 0.05


@pytest.mark.parametrize("arms", [3, 5])
def test_spiral_tells_the_arms_apart_far_better_than_by_chance(arms):
    torch.manual_seed(0)
    module = Spiral(SpiralArguments(arms=arms, points=1000))
    epochs = _metrics(module, epochs=20, train_batch_size=16, val_batch_size=256)
    assert epochs[-1]["train_loss"] < 0.4 * epochs[0]["train_loss"]
    assert epochs[-1]["val_accuracy"] > 0.85
    assert epochs[-1]["val_loss"] < math.log(arms) / 3


def test_the_points_of_a_spiral_depend_on_their_seed_alone():
    def points(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        (batch,) = Spiral(SpiralArguments(data_seed=seed)).get_train_dataloader(SequentialSampler, 1000)
        return batch[0]

    assert torch.equal(points(1, 5), points(1, 6))
    assert not torch.equal(points(1, 5), points(2, 5))


def test_a_fifth_of_the_points_is_held_out():
    module = Spiral(SpiralArguments(points=100))
    (train,), (val,) = (
        list(loader(SequentialSampler, 1000))
        for loader in (module.get_train_dataloader, module.get_val_dataloaders)
    )
    assert (len(train[0]), len(val[0])) == (80, 20)
    assert not set(map(tuple, train[0].tolist())) & set(map(tuple, val[0].tolist()))


def test_a_tenth_of_the_windows_is_held_out_and_all_windows_cover_the_text(tmp_path):
    text = "".join(chr(0x4E00 + number) for number in range(201))
    module = _text(tmp_path, text, context=10)
    train, val = (
        torch.cat([batch[:, :-1].flatten() for batch in loader(SequentialSampler, 4)]).tolist()
        for loader in (module.get_train_dataloader, module.get_val_dataloaders)
    )
    assert (len(train), len(val)) == (180, 20)
    assert sorted(train + val) == list(range(200))


def test_a_prediction_does_not_see_what_comes_after_it(tmp_path):
    module = _text(tmp_path, depth=3)
    before = torch.randn(1, 8, 8)
    after = before.clone()
    after[:, 5:] = torch.randn(1, 3, 8)
    left, right = module.blocks(before), module.blocks(after)
    assert torch.equal(left[:, :5], right[:, :5])
    assert not torch.allclose(left[:, 5:], right[:, 5:])


def test_dropout_is_for_training_alone(tmp_path):
    module = _text(tmp_path, dropout=0.5)
    (batch,) = [torch.zeros(2, 9, dtype=torch.long)]
    device = torch.device("cpu")
    module.eval()
    assert torch.equal(module.val_step(0, batch, device), module.val_step(0, batch, device))
    module.train()
    assert module.train_step(0, batch, device) != module.train_step(0, batch, device)


def test_text_has_124_million_parameters_at_the_sizes_of_gpt_2_small(tmp_path):
    path = _write(tmp_path, "abc" * 1000)
    sizes = {"width": 768, "depth": 12, "heads": 12, "context": 1024, "vocabulary_size": 50257}
    with torch.device("meta"):
        module = Text(TextArguments(files=[path], **sizes))
    assert sum(parameter.numel() for parameter in module.parameters()) == 124_439_808


def test_the_embedding_has_a_row_for_each_character_unless_more_are_asked_for(tmp_path):
    assert _text(tmp_path).embedding.num_embeddings == 3
    assert _text(tmp_path, vocabulary_size=50).embedding.num_embeddings == 50


@pytest.mark.parametrize("other", ["abd" * 100, "abcd" * 100])
def test_a_checkpoint_of_a_text_with_other_characters_is_refused_saying_so(
    tmp_path, make_checkpointer, other
):
    arguments = TrainerArguments(epochs=1, train_batch_size=8, device="cpu")
    Trainer(_text(tmp_path), arguments, checkpointer=make_checkpointer()).train()
    with pytest.raises(StateMismatchError, match=r"other characters; module\.files have changed"):
        Trainer(_text(tmp_path, other), arguments, checkpointer=make_checkpointer())


def test_a_checkpoint_goes_on_with_another_text_of_the_same_characters(tmp_path, make_checkpointer):
    arguments = TrainerArguments(epochs=1, train_batch_size=8, device="cpu")
    Trainer(_text(tmp_path), arguments, checkpointer=make_checkpointer()).train()
    saved = make_checkpointer().load().module_interface_state
    module = _text(tmp_path, "cab" * 90)
    Trainer(module, arguments, checkpointer=make_checkpointer())
    assert torch.equal(module.embedding.weight, saved["embedding.weight"])


def test_several_files_are_one_text_in_the_order_of_their_names_in_the_list(tmp_path):
    files = [_write(tmp_path, "ab" * 20, "2.txt"), _write(tmp_path, "cd" * 20, "1.txt")]
    module = Text(TextArguments(files=files, width=8, depth=1, heads=2, context=39))
    (window,) = module.get_val_dataloaders(SequentialSampler, 1)
    assert "".join(module.characters[code] for code in window[0]) == "ab" * 20


def _faults(make) -> list[tuple[str, str]]:
    with pytest.raises((ArgumentsError, ConfigError)) as caught:
        make()
    assert caught.value.exit_code == 2
    return [(fault.field, fault.message) for fault in caught.value.faults]


@pytest.mark.parametrize("length", [0, 1, 8, 16])
def test_too_little_text_is_refused_with_what_is_needed(tmp_path, length):
    ((field, message),) = _faults(lambda: _text(tmp_path, "a" * length, context=8))
    assert field == "module.files"
    assert f"hold {length} characters" in message
    assert "17" in message


def test_the_least_text_that_is_said_to_be_needed_trains(tmp_path):
    epochs = _metrics(_text(tmp_path, "a" * 17, context=8), train_batch_size=2)
    assert epochs[0].keys() == {"train_loss", "val_loss"}


def test_a_vocabulary_smaller_than_the_texts_is_refused_with_both_numbers(tmp_path):
    ((field, message),) = _faults(lambda: _text(tmp_path, vocabulary_size=2))
    assert field == "module.vocabulary_size"
    assert "3 distinct characters" in message
    assert message.endswith("than 2")


def test_a_width_that_the_heads_do_not_divide_is_refused(tmp_path):
    ((field, message),) = _faults(lambda: _text(tmp_path, width=10, heads=4))
    assert (field, message) == ("width", "must be a multiple of heads (4), but is 10")


@pytest.mark.parametrize(
    "fields",
    [{"files": []}, {"dropout": 1.0}, {"dropout": -0.1}, {"context": 1}, {"depth": 0}, {"learning_rate": 0}],
)
def test_sizes_and_rates_out_of_range_are_refused_by_name(fields):
    ((field, _),) = _faults(lambda: TextArguments(**{"files": ["a"], **fields}))
    assert [field] == list(fields)


def test_every_text_that_cannot_be_read_is_named_at_once(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    os.mkfifo(tmp_path / "fifo")
    names = ["missing.txt", "latin.txt", "fifo", "."]
    faults = _faults(lambda: Text(TextArguments(files=[str(tmp_path / name) for name in names])))
    assert [field for field, _ in faults] == [f"module.files[{number}]" for number in range(4)]
    reasons = ["No such file", "not UTF-8", "is a FIFO", "is a directory"]
    for (_, message), reason, name in zip(faults, reasons, names, strict=True):
        assert reason in message
        assert str(tmp_path / name) in message


@pytest.mark.parametrize(
    "module",
    [
        '{name: text, files: ["a\\0b"]}',
        '{name: text, files: ["\\uD800"]}',
        "{name: text, files: [missing.txt]}",
        "{name: spiral, data_seed: 18446744073709551616}",
    ],
)
def test_what_a_module_cannot_be_made_of_is_an_error_of_the_configuration(
    tmp_path, capsys, monkeypatch, module
):
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path, f"module: {module}\n", "run.yaml")
    assert main(["train", "--config", path]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert os.listdir(tmp_path) == ["run.yaml"]


def test_a_resume_of_a_module_with_extra_state_says_nothing_of_it_since_it_is_restored(tmp_path, caplog):
    text = tmp_path / "text.txt"
    text.write_text("what is read is learned, " * 40)
    arguments = DefaultCheckpointerArguments(save_dir=str(tmp_path), load_dir=str(tmp_path))
    arguments.model_state_save_dir = None
    for epochs in (1, 2):
        module = Text(TextArguments(files=[str(text)], width=8, depth=1, heads=1, context=8))
        Trainer(module, TrainerArguments(epochs=epochs, device="cpu", checkpointer_args=arguments)).train()
    assert "Not restored" not in caplog.text
