"""TRL's SFTTrainer with our checkpoints. `make test-peers` installs it and runs this."""

from __future__ import annotations

import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from marlin_ckpt.directory import catalog
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.integrations.transformers import MarlinCheckpoints, protect

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are theirs


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3, "b": 4, "c": 5}
    one = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    one.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=one, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


@pytest.mark.parametrize("form", ["protect", "mixin"])
def test_the_trainer_of_trl_saves_whole_folders_and_resumes_with_the_same_weights(tmp_path, form):
    from datasets import Dataset
    from transformers import GPT2Config, GPT2LMHeadModel
    from trl import SFTConfig, SFTTrainer

    class Mine(MarlinCheckpoints, SFTTrainer):
        pass

    def make(directory):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=6, n_positions=16))
        args = SFTConfig(
            str(directory), max_steps=4, save_steps=1, per_device_train_batch_size=2, report_to=[],
            use_cpu=True, disable_tqdm=True, save_total_limit=2, seed=1, bf16=False,
            gradient_checkpointing=False,
        )  # fmt: skip
        rows = Dataset.from_list([{"text": "a b c a"}, {"text": "b c"}, {"text": "c c a"}] * 4)
        options = {"args": args, "train_dataset": rows, "processing_class": tokenizer()}
        return Mine(model, **options) if form == "mixin" else protect(SFTTrainer(model, **options))

    whole = make(tmp_path)
    whole.train()
    newest = tmp_path / "checkpoint-4"
    assert verification.verify(catalog.entry(newest)).status is Status.INTACT
    assert {"tokenizer.json", "trainer_state.json", ".marlin"} <= {*os.listdir(newest)}
    os.truncate(newest / "optimizer.pt", 100)
    resumed = make(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("checkpoint")) == [
        "checkpoint-3", "checkpoint-4",
    ]  # fmt: skip
