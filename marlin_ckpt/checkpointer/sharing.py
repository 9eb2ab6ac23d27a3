"""How the saves of a run share what has not changed: with the checkpoints that its rules keep."""

import logging
from collections.abc import Callable
from typing import TypeVar

from marlin_ckpt.arguments import DefaultCheckpointerArguments
from marlin_ckpt.directory.retention.in_run import Keeper
from marlin_ckpt.entries import Entry
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import Kind
from marlin_ckpt.saving.sharing.past import Past, Staying
from marlin_ckpt.saving.sharing.sharing import Sharing, sharing_of

Found = TypeVar("Found")


class RunSharing:
    """Says how each save of a run shares."""

    def __init__(self, keeper: Keeper, logger: logging.Logger) -> None:
        """Takes what keeps to the run's rules, and what logs."""
        self._keeper, self._past = keeper, Past(logger)

    def reads(self, args: DefaultCheckpointerArguments, path: str) -> None:
        """Is told of a file before all of it is read, to go on from it."""
        if args.share_unchanged:
            self._past.reads(path)

    def reading(
        self, args: DefaultCheckpointerArguments, attempt: Callable[[Entry], Found]
    ) -> Callable[[Entry], Found]:
        """What attempts to load a file in full, so that the saves to come share with it."""

        def attempted(entry: Entry) -> Found:
            self.reads(args, entry.path)
            found = attempt(entry)
            self.has_read(args, entry.path)
            return found

        return attempted

    def has_read(self, args: DefaultCheckpointerArguments, path: str) -> None:
        """Lets the saves to come share with the file that was read last, all of whose checksums hold."""
        if args.share_unchanged:
            self._past.has_read(path)

    def of(self, args: DefaultCheckpointerArguments, path: str, manifest: Manifest) -> Sharing | None:
        """How a save shares; None where it does not.

        Args:
            args: the checkpointer's.
            path: that the checkpoint will have.
            manifest: of it.
        """

        def staying(size_bytes: int) -> Staying:
            found = self._keeper.staying(args, path, manifest, size_bytes)
            before = [one.path for one in reversed(found) if one.index < manifest.index]
            return Staying(before, [one.path for one in found if one.index >= manifest.index])

        if not args.share_unchanged or manifest.kind is not Kind.CHECKPOINT:
            return None
        return sharing_of(self._past, path, manifest, staying)
