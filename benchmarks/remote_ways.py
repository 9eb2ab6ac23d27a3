"""How a state is saved to S3 and loaded from it: by us, by other packages, and by requests alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch

import marlin_ckpt
from benchmarks.files import buffer
from benchmarks.states import Training, flat

OURS, RAW, LIGHTNING = "ours", "requests alone", "Lightning with s3fs"
_PIECE_BYTES, _THREADS = 16 << 20, 4  # of requests alone, as ours has them
_READ_BYTES = 512 << 10  # at a time, since urllib3 copies it
Act = Callable[[Training, str], object]


class Acts(NamedTuple):
    """What is done with a live training and the URL of an object; loads fill the training."""

    save: Act
    load: Act


class Way(NamedTuple):
    """A way to save and load.

    Attributes:
        modules: that it needs.
        make: from the endpoint of a server what is done; boto3's variables name it, too.
    """

    modules: tuple[str, ...]
    make: Callable[[str], Acts]


def _state(live: Training) -> dict[str, Any]:
    return {"model": live.module.state_dict(), "optimizer": live.optimizer.state_dict()}


def _take(live: Training, state: dict[str, Any]) -> None:
    live.module.load_state_dict(state["model"])
    live.optimizer.load_state_dict(state["optimizer"])


def _ours(_: str) -> Acts:
    def objects(live: Training) -> dict[str, Any]:
        return {"model": live.module, "optimizer": live.optimizer}

    return Acts(
        save=lambda live, url: marlin_ckpt.save(objects(live), url),
        load=lambda live, url: marlin_ckpt.load(url, into=objects(live)),
    )


def _lightning(_: str) -> Acts:
    checkpoint_io = import_module("lightning_fabric.plugins.io.torch_io").TorchCheckpointIO()
    return Acts(
        save=lambda live, url: checkpoint_io.save_checkpoint(_state(live), url),
        load=lambda live, url: _take(live, checkpoint_io.load_checkpoint(url, weights_only=True)),
    )


def _distributed(_: str) -> Acts:
    checkpoint = import_module("torch.distributed.checkpoint")
    fsspec = import_module("torch.distributed.checkpoint._fsspec_filesystem")

    def tensors(live: Training) -> dict[str, torch.Tensor]:
        return dict(flat(live.checkpoint().payload()))

    def save(live: Training, url: str) -> None:
        checkpoint.save(tensors(live), storage_writer=fsspec.FsspecWriter(url), no_dist=True)

    def load(live: Training, url: str) -> None:
        checkpoint.load(tensors(live), storage_reader=fsspec.FsspecReader(url), no_dist=True)

    return Acts(save, load)


def _connector(endpoint: str) -> Acts:
    package = import_module("s3torchconnector")
    config = package.S3ClientConfig(force_path_style=True)
    checkpoint = package.S3Checkpoint(region="us-east-1", endpoint=endpoint, s3client_config=config)

    def save(live: Training, url: str) -> None:
        with checkpoint.writer(url) as file:
            torch.save(_state(live), file)

    def load(live: Training, url: str) -> None:
        with checkpoint.reader(url) as file:
            state = torch.load(file, weights_only=True)
        _take(live, state)

    return Acts(save, load)


def _raw(_: str) -> Acts:
    """Uploads and downloads as many bytes, in pieces, from and to the same memory: no client can do less."""
    botocore = import_module("botocore.config")
    client = import_module("boto3").client("s3", config=botocore.Config(signature_version="s3v4"))
    pool = import_module("urllib3").PoolManager(maxsize=_THREADS, retries=False)
    memory = [memoryview(buffer(_PIECE_BYTES)) for _ in range(_THREADS)]

    def address(action: str, at: dict[str, str], **more: Any) -> str:
        url: str = client.generate_presigned_url(action, Params={**at, **more})
        return url

    def save(live: Training, url: str) -> None:
        at, size = _place(url), sum(one.nbytes for one in live.tensors())
        upload = client.create_multipart_upload(**at)["UploadId"]

        def put(number: int) -> dict[str, Any]:
            rest = min(_PIECE_BYTES, size - (number - 1) * _PIECE_BYTES)
            part = address("upload_part", at, UploadId=upload, PartNumber=number)
            answer = pool.request("PUT", part, body=memory[0][:rest])
            return {"PartNumber": number, "ETag": answer.headers["ETag"]}

        with ThreadPoolExecutor(_THREADS) as threads:
            parts = list(threads.map(put, range(1, -(-size // _PIECE_BYTES) + 1)))
        client.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": parts})

    def load(_live: Training, url: str) -> None:
        at = _place(url)
        size, whole = client.head_object(**at)["ContentLength"], address("get_object", at)

        def get(start: int) -> None:
            end = min(start + _PIECE_BYTES, size)
            answer = pool.request(
                "GET", whole, headers={"Range": f"bytes={start}-{end - 1}"}, preload_content=False
            )
            into, done = memory.pop(), 0
            while read := answer.readinto(into[done : done + _READ_BYTES]):
                done += read
            if done != end - start:
                raise OSError(f"short answer: {answer.status}")
            memory.append(into)
            answer.release_conn()

        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(get, range(0, size, _PIECE_BYTES)))

    return Acts(save, load)


def _place(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    return {"Bucket": parts.netloc, "Key": parts.path.lstrip("/")}


WAYS = {
    OURS: Way((), _ours),
    RAW: Way((), _raw),
    LIGHTNING: Way(("lightning_fabric", "s3fs"), _lightning),
    "torch.distributed.checkpoint with s3fs": Way(("s3fs",), _distributed),
    "s3torchconnector": Way(("s3torchconnector",), _connector),
}
