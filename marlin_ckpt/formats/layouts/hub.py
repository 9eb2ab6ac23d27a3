"""The cache of the Hugging Face hub: snapshots whose files are links to blobs, which their digests name.

`models--org--name/snapshots/<revision>/model.safetensors -> ../../blobs/<digest>`; and a blob may itself be a
link to a store that all repositories of the cache share, `../../blobs/ab/<hash>`, which has a marker file.
The digest is the SHA-256 of large files, and git's SHA-1 of small ones.
Source: huggingface_hub, "Understand caching", the section on the file structure; `_shared_blobs.py` of 2.x.
"""

import contextlib
import os
import shlex

_SNAPSHOTS = "snapshots"
_BLOBS = "blobs"
_MARKER = ".huggingface-shared-blobs"
_MODELS = "models--"


def is_blob(link: str, target: str) -> bool:
    """Whether a link in a snapshot leads to a blob of its repository.

    Args:
        link: its path.
        target: where it leads to in the end.
    """
    repository, _ = _snapshot(os.path.realpath(os.path.dirname(link)))
    if not repository:
        return False
    blobs = os.path.join(repository, _BLOBS)
    if _is_in(target, blobs):
        return True
    shared = os.path.join(os.path.dirname(repository), _BLOBS)
    return bool(
        _is_in(target, shared)
        and os.path.lexists(os.path.join(shared, _MARKER))
        and _is_in(_first_hop(link), blobs)
    )


def digest(link: str) -> str:
    """The digest that names the blob of a file in a snapshot, in hexadecimal; "" where it is no such link."""
    blob = _first_hop(link) if os.path.islink(link) else ""
    name = os.path.basename(blob)
    repository, _ = _snapshot(os.path.realpath(os.path.dirname(link)))
    is_named = len(name) in (40, 64) and not set(name) - set("0123456789abcdef")
    return name if is_named and repository and _is_in(blob, os.path.join(repository, _BLOBS)) else ""


def fetching(folder: str) -> str:
    """What to type so that the hub's tool fetches a snapshot again; "" where a folder is in none."""
    repository, revision = _snapshot(folder)
    name = os.path.basename(repository)
    if not name.startswith(_MODELS):
        return ""
    model = name[len(_MODELS) :].replace("--", "/")
    return f"hf download {shlex.quote(model)} --revision {shlex.quote(revision)}"


def _snapshot(folder: str) -> tuple[str, str]:
    """The repository and the revision that a folder is a snapshot of, or in one; empty where it is not."""
    above, name = os.path.split(folder)
    while name:
        further, kind = os.path.split(above)
        if kind == _SNAPSHOTS:
            return further, name
        above, name = further, kind
    return "", ""


def _first_hop(link: str) -> str:
    with contextlib.suppress(OSError):
        folder = os.path.realpath(os.path.dirname(link))
        return os.path.normpath(os.path.join(folder, os.readlink(link)))
    return ""


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))
