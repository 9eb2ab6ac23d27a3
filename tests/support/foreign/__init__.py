"""Checkpoints in other tools' layouts, made by hand in milliseconds: what all tests of layouts use.

Each maker takes a directory, writes one checkpoint of a layout into it, and gives a `Made`: where it is,
which files it has, and which weights it holds. Names of files and keys are those of the real packages, whose
release and source each docstring names; tests/peers/test_foreign_shapes.py compares them with what those
packages write.

| module | what it makes |
|---|---|
| `made` | `Made`, and what the makers share: tiny weights, optimizer states, JSON |
| `hugging_face` | weights in one file or in shards, tied, `pytorch_model.bin`, a PEFT adapter |
| `hub` | the cache of the Hugging Face hub, with its links |
| `trainer` | `checkpoint-N` of the Trainer of Transformers, plain, sharded, with FSDP and with DeepSpeed |
| `accelerate` | `checkpoint_N` of `Accelerator.save_state`, plain and with FSDP |
| `lightning` | `.ckpt` files, and the folder of a sharded strategy |
| `dcp_folders` | torch's Distributed Checkpoint: plain, torchtitan, Megatron-Core, its Hugging Face storage |
| `dcp_writing` | writes such a folder for any number of ranks, without processes |
| `deepspeed` | `global_stepN` of ZeRO 1 to 3, with `latest` |
| `plain` | single files of nanoGPT, timm and Ignite |
| `corpus` | `CHECKPOINTS` and `RUNS`: every maker by a name, for `pytest.mark.parametrize` |
| `real_dcp` | folders of DCP by torch itself: one process in the gate, several in tests/peers |
| `real_transformers`, `real_accelerate`, `real_lightning` | the same by the packages; tests/peers alone |
| `launching` | runs a module by torchrun |
| `outlines` | how a checkpoint is built, to compare ours with theirs |
"""
