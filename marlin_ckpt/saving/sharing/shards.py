"""Has the shard of a rank share what has not changed with those that this process wrote before it."""

import os
from collections.abc import Callable, Mapping, Sequence

from marlin_ckpt.distributed.shards.durable import Facts
from marlin_ckpt.formats.shared import Held, Shared
from marlin_ckpt.saving.sharing.comparing import Data
from marlin_ckpt.saving.sharing.past import Staying
from marlin_ckpt.saving.sharing.sharing import Sharing

_Names = tuple[Sequence[str], Sequence[str]]


class ShardSharing:
    """How the shard of a rank shares; see `distributed.shards.shard.Sharing`.

    Each rank decides for itself, with what it wrote itself. Rank 0 alone lists the directory.
    """

    def __init__(self, sharing: Sharing, data: Data, size_bytes: int) -> None:
        """Takes how the save shares, the tensors of this rank, and the length of the whole checkpoint."""
        self._sharing, self._data, self._size_bytes = sharing, data, size_bytes
        self._member = ""
        self._held: Mapping[str, Held] = {}

    def staying(self) -> _Names:
        """The names of the checkpoints that stay, as `Staying` has their paths."""
        before, after = self._sharing.staying(self._size_bytes)
        return [*map(os.path.basename, before)], [*map(os.path.basename, after)]

    def written(
        self, staying: _Names, member: str, write: Callable[[Shared, Callable[[], None]], Facts]
    ) -> Facts:
        """Has the shard written."""

        def here() -> Staying:
            directory = os.path.dirname(self._sharing.path)
            return Staying(*([os.path.join(directory, name) for name in names] for names in staying))

        found = self._sharing.filled(self._data, here, write, member)
        self._member, self._held = member, found.held
        return found.done

    def is_durable(self) -> None:
        """Remembers the shard."""
        if self._member:
            self._sharing.wrote(self._held, self._member)
