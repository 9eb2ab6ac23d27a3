"""Folders made to attack whoever reads them, in the layouts of other tools, and what to expect of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.folder_changes import (
    INDEX,
    MODEL,
    Change,
    bound,
    code,
    linked,
    many,
    mapped,
    named,
    nested,
    node,
    secret_of,
    sparse,
    state,
    written,
    zipped_code,
)
from tests.support.foreign import accelerate, dcp_folders, hub, hugging_face, trainer
from tests.support.foreign.made import Made


@dataclass(frozen=True)
class Hostile:
    """A way to make a folder hostile.

    Attributes:
        make: makes a sound folder in a directory.
        change: what is done to it then.
        codes: that `verify` may exit with.
        is_large: reading it takes seconds, as its length allows.
    """

    make: Callable[[Path], Made]
    change: Change
    codes: tuple[int, ...] = (3,)
    is_large: bool = False


_sharded, _single = hugging_face.make_sharded, hugging_face.make_single
_trainer, _fsdp, _deepspeed = trainer.make_trainer, trainer.make_trainer_fsdp, trainer.make_trainer_deepspeed
_accelerate, _dcp, _cached = accelerate.make_accelerate, dcp_folders.make_dcp, hub.make_cached

_ODD = "\x1b[31m\x1b]52;c;ZXZpbA==\x07 new\nline \u202e [red]"
_BYTES = b"\xff\xfe\x1b[2J\n[bold].safetensors"


def _out_of_blobs(folder: Path) -> str:
    return f"../../blobs/../../{secret_of(folder).name}"


FOLDERS: dict[str, Hostile] = {
    # Names in an index.
    "an index with ..": Hostile(_sharded, mapped("../outside.safetensors")),
    "an index with .. in the middle": Hostile(_sharded, mapped("a/../../outside.safetensors")),
    "an index with an absolute path": Hostile(_sharded, mapped(secret_of)),
    "an index with a folder": Hostile(_sharded, mapped("a/model.safetensors")),
    "an index with NUL": Hostile(_sharded, mapped("a\0b")),
    "an index with nothing": Hostile(_sharded, mapped("")),
    "an index with the folder": Hostile(_sharded, mapped(".")),
    "an index with the folder above": Hostile(_sharded, mapped("..")),
    "an index with an endless name": Hostile(_sharded, mapped("a" * 1_000_000)),
    "an index with controls": Hostile(_sharded, mapped(_ODD)),
    "an index with half a surrogate": Hostile(_sharded, mapped("\ud800")),
    "an index with itself": Hostile(_sharded, mapped(INDEX)),
    "an index of 1,000,000 shards": Hostile(_sharded, many, is_large=True),
    # JSON.
    "JSON nested 100,000 deep": Hostile(_sharded, written(INDEX, b'{"a":' * 100_000)),
    "JSON nested 100,000 deep, and closed": Hostile(_sharded, written(INDEX, b"[" * 10**5 + b"]" * 10**5)),
    "JSON with a number of 100,000 digits": Hostile(
        _sharded, written(INDEX, b'{"metadata":{"total_size":' + b"9" * 100_000 + b'},"weight_map":{}}')
    ),
    "JSON with NaN and infinities": Hostile(
        _sharded, written(INDEX, b'{"metadata":{"total_size":-1e999,"a":NaN},"weight_map":{"a":NaN}}')
    ),
    "JSON of 10 MB of lists": Hostile(
        _sharded, written(INDEX, b"[" + b"[]," * (3 << 20) + b"0]"), is_large=True
    ),
    "JSON of 1,000,000 equal keys": Hostile(
        _sharded, written(INDEX, b'{"weight_map":{' + b'"a":"b",' * 10**6 + b'"a":"b"}}'), is_large=True
    ),
    "JSON that is no text": Hostile(_sharded, written(INDEX, b"\xff\xfe\x00" * 99)),
    "JSON in UTF-16": Hostile(_sharded, written(INDEX, '{"weight_map":{"a":"../b"}}'.encode("utf-16"))),
    "JSON of a terabyte": Hostile(_sharded, sparse(INDEX)),
    "JSON that is a list": Hostile(_sharded, written(INDEX, b"[1]")),
    "JSON whose map is a list": Hostile(_sharded, written(INDEX, b'{"weight_map":["a"]}')),
    "JSON with a map of maps": Hostile(_sharded, written(INDEX, b'{"weight_map":{"a":{"b":"c"}}}')),
    "a state nested 100,000 deep": Hostile(_trainer, written("trainer_state.json", b'{"a":' * 100_000)),
    "a state of a terabyte": Hostile(_trainer, sparse("trainer_state.json")),
    "a state with controls": Hostile(
        _trainer, state(log_history=[{"step": 4, _ODD: 1.0}], best_model_checkpoint=_ODD), (0,)
    ),
    "a state of an infinite step": Hostile(_trainer, state(global_step=float("inf"))),
    "a state of a step of 4,000 digits": Hostile(_trainer, state(global_step=10**4_000)),
    "a state with metrics of all kinds": Hostile(
        _trainer,
        state(log_history=[{"step": 4, "a": float("nan"), "b": 10**4_000, "c": {}, "d": True}, 7, None]),
        (0,),
    ),
    "a best checkpoint outside": Hostile(_trainer, state(best_model_checkpoint="../../../etc"), (0,)),
    "an endless history": Hostile(
        _trainer, state(log_history=[{"step": 4, f"m{n}": n} for n in range(50_000)]), (0, 3), is_large=True
    ),
    # Links.
    "a link to a file outside": Hostile(_single, linked(MODEL, secret_of)),
    "a link by .. to a file outside": Hostile(_single, linked(MODEL, lambda of: f"../{secret_of(of).name}")),
    "a link to the system's": Hostile(_single, linked(MODEL, "/etc/passwd")),
    "a shard that is a link outside": Hostile(
        _sharded, linked("model-00002-of-00003.safetensors", secret_of)
    ),
    "an index that is a link outside": Hostile(_sharded, linked(INDEX, "/etc/passwd")),
    "a configuration that is a link outside": Hostile(_single, linked("config.json", "/etc/passwd")),
    "a state that is a link outside": Hostile(_trainer, linked("trainer_state.json", "/etc/passwd")),
    "an optimizer that is a link outside": Hostile(_trainer, linked("optimizer.pt", secret_of)),
    "a link to endless zeros": Hostile(_single, linked(MODEL, "/dev/zero")),
    "a link to a terminal": Hostile(_single, linked(MODEL, "/dev/tty")),
    "a link to itself": Hostile(_single, linked(MODEL, MODEL), (1, 3)),
    "a link in a circle": Hostile(
        _single, lambda of: (linked(MODEL, "other")(of), linked("other", MODEL)(of)), (1, 3)
    ),
    "a link to the folder itself": Hostile(_trainer, linked("runs", "."), (0,)),
    "a link to the folder above": Hostile(_trainer, linked("runs", ".."), (0,)),
    "a link to the root": Hostile(_trainer, linked("runs", "/"), (0,)),
    "a folder of DCP that is a link outside": Hostile(_fsdp, linked("optimizer_0", "../moved out")),
    "a folder of DeepSpeed that is a link outside": Hostile(
        _deepspeed, linked("global_step4", "../moved out")
    ),
    "metadata that is a link outside": Hostile(_dcp, linked(".metadata", "/etc/passwd")),
    "a shard of DCP that is a link outside": Hostile(_dcp, linked("__0_0.distcp", secret_of)),
    "a link through blobs to a file outside": Hostile(
        _cached, linked("model-00001-of-00003.safetensors", _out_of_blobs)
    ),
    # What is no file.
    "weights that are a FIFO": Hostile(_single, node(MODEL, os.mkfifo)),
    "a shard that is a FIFO": Hostile(_sharded, node("model-00002-of-00003.safetensors", os.mkfifo)),
    "an index that is a FIFO": Hostile(_sharded, node(INDEX, os.mkfifo)),
    "a configuration that is a FIFO": Hostile(_single, node("config.json", os.mkfifo), (0, 1, 3)),
    "a state that is a FIFO": Hostile(_trainer, node("trainer_state.json", os.mkfifo)),
    "an optimizer that is a socket": Hostile(_trainer, node("optimizer.pt", bound)),
    "metadata that is a FIFO": Hostile(_dcp, node(".metadata", os.mkfifo)),
    "a shard of DCP that is a FIFO": Hostile(_dcp, node("__0_0.distcp", os.mkfifo)),
    "the file latest of DeepSpeed that is a FIFO": Hostile(_deepspeed, node("latest", os.mkfifo)),
    "weights that are a folder": Hostile(_single, node(MODEL, os.mkdir), (3, 4)),
    "weights of a terabyte": Hostile(_single, sparse(MODEL)),
    # Names.
    "names that are no text": Hostile(_single, named(_BYTES, b"\x80.bin", b"\n"), (0, 3)),
    "a rank of 200 digits": Hostile(
        _accelerate, lambda of: (of / f"random_states_{'9' * 200}.pkl").write_bytes(b"")
    ),
    "a rank of the Trainer of 200 digits": Hostile(
        _trainer, lambda of: (of / f"rng_state_{'9' * 200}.pth").write_bytes(b"")
    ),
    "a rank of DCP of 200 digits": Hostile(
        _dcp, lambda of: (of / f"__{'9' * 200}_0.distcp").write_bytes(b""), (0, 3)
    ),
    "a rank of DeepSpeed of 100 digits": Hostile(
        _deepspeed,
        lambda of: (of / f"global_step4/zero_pp_rank_{'9' * 100}_mp_rank_00_model_states.pt").write_bytes(
            b""
        ),
    ),
    "a latest of controls": Hostile(_deepspeed, written("latest", _ODD.encode())),
    "folders in folders": Hostile(_trainer, nested, (0, 1, 3)),
    # Code.
    "metadata with code": Hostile(_dcp, code(".metadata")),
    "metadata of a nested folder with code": Hostile(_fsdp, code("optimizer_0/.metadata")),
    "an optimizer with code": Hostile(_trainer, zipped_code("optimizer.pt"), (0,)),
    "random states with code": Hostile(_accelerate, zipped_code("random_states_0.pkl"), (0,)),
    "a state of DeepSpeed with code": Hostile(
        _deepspeed, zipped_code("global_step4/mp_rank_00_model_states.pt"), (0, 3)
    ),
}


def make_all(directory: Path, *, large: bool) -> list[dict[str, Any]]:
    """Makes the folders, each in a directory of its own, and lists them for `hostile_worker`."""
    listed = []
    for number, (title, one) in enumerate(FOLDERS.items()):
        if one.is_large and not large:
            continue
        place = directory / f"{number:02d}"
        place.mkdir()
        path = one.make(place).path
        one.change(path)
        listed.append({"title": title, "path": str(path), "verified": one.codes})
    return listed
