"""The cache of the Hugging Face hub: snapshots are links to blobs that are named by their digest."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from .hugging_face import SPARE, write_model
from .made import Made, folder, weights

REVISION = "0123456789abcdef0123456789abcdef01234567"


def blob_name(content: bytes, *, is_large: bool) -> str:
    """The ETag by which a blob is named: the SHA-256 of an LFS file, else git's SHA-1 of the blob."""
    if is_large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def make_cached(directory: Path, *, step: int = 0, shards: int = 3) -> Made:
    """A repository in the cache: `blobs`, `refs` and `snapshots` (huggingface_hub 2.4, file_download.py).

    `path` is the folder of the snapshot. Its entries are relative links to `../../blobs/DIGEST`. Weights are
    stored by LFS, so their blobs are named by SHA-256; small text files by the SHA-1 that git gives them.
    """
    of = weights(step)
    holders = write_model(directory / "staged", of, shards=shards)
    repository = directory / "models--org--name"
    path = folder(repository / "snapshots" / REVISION)
    blobs, refs = folder(repository / "blobs"), folder(repository / "refs")
    (refs / "main").write_text(REVISION, encoding="ascii")
    for name in sorted(os.listdir(directory / "staged")):
        content = (directory / "staged" / name).read_bytes()
        digest = blob_name(content, is_large=name.endswith(".safetensors"))
        (blobs / digest).write_bytes(content)
        os.symlink(os.path.join("..", "..", "blobs", digest), path / name)
    shutil.rmtree(directory / "staged")
    return Made(path=path, layout="sharded", weights=of, holders=holders, spare=SPARE)


def make_cached_shared(directory: Path, *, step: int = 0) -> Made:
    """The same with the store that all repositories of a cache share (huggingface_hub 2.4, _shared_blobs.py).

    Each blob of a large file is itself a relative link, to `blobs/XX/XET-HASH` of the whole cache. The hash
    is not the SHA-256 of the content, which still names the repository's blob.
    """
    made = make_cached(directory, step=step)
    store = folder(directory / "blobs")
    (store / ".huggingface-shared-blobs").write_text("1\n", encoding="ascii")
    for blob in sorted((directory / "models--org--name" / "blobs").iterdir()):
        if len(blob.name) == 64:
            xet = hashlib.sha256(b"xet" + blob.name.encode()).hexdigest()
            shared = folder(store / xet[:2]) / xet
            shutil.move(blob, shared)
            (store / xet[:2] / f"{xet}.refs").write_text(
                f"models--org--name/blobs/{blob.name}\n", encoding="ascii"
            )
            os.symlink(os.path.relpath(shared, blob.parent), blob)
    return made


def lfs_pointer(content: bytes) -> bytes:
    """What a clone without git-lfs has in place of a file (git-lfs, docs/spec.md)."""
    digest = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()
