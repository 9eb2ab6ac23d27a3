"""What the adapter for Transformers overrides and replaces of its private parts, as they are in 5.24."""

import contextlib
from collections.abc import Iterator
from typing import Any

from transformers import trainer

from marlin_ckpt.naming import OWN_DIRECTORY, TRASH
from marlin_ckpt.storage.local import temporary

# The methods of a Trainer, with their parameters.
PRIVATE = {
    "_get_output_dir": ("self", "trial"),
    "_load_best_model": ("self",),
    "_push_from_checkpoint": ("self", "checkpoint_folder"),
    "_save_checkpoint": ("self", "model", "trial"),
}
# Of the directory of a run: what is for those who train there, and names of hosts.
_OURS = (f"{OWN_DIRECTORY}/*", f"{TRASH}/*", f".*{temporary.SUFFIX}/*")


class _Uploading:
    """The hub's client, whose uploads of a folder leave out what is ours."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def upload_folder(self, *, ignore_patterns: Any = None, **how: Any) -> Any:
        patterns = [ignore_patterns] if isinstance(ignore_patterns, str) else ignore_patterns or ()
        return self._client.upload_folder(ignore_patterns=[*patterns, *_OURS], **how)


@contextlib.contextmanager
def uploads_without_ours() -> Iterator[None]:
    """Has what a Trainer uploads in the block leave out what is ours: its own patterns cannot be set."""
    theirs = trainer.hf_api
    trainer.hf_api = lambda: _Uploading(theirs())
    try:
        yield
    finally:
        trainer.hf_api = theirs
