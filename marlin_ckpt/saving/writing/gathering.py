"""A file that rank 0 writes of tensors of which each rank has a part: one tensor after the other is gathered.

The file is planned with tensors that have no memory of their own in their places.
"""

import mmap
from collections.abc import Iterator
from typing import Any

import torch

from marlin_ckpt.distributed.failures import share
from marlin_ckpt.errors import RankError
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.torch.pickler import Encoded, encode
from marlin_ckpt.formats.torch.writer import Written, on_cpu
from marlin_ckpt.saving.copying.owners import is_part
from marlin_ckpt.saving.crew import Crew
from marlin_ckpt.saving.job import Job
from marlin_ckpt.saving.replacing import replaced
from marlin_ckpt.saving.writing.content import Piece
from marlin_ckpt.saving.writing.file import FileImage
from marlin_ckpt.saving.writing.of_main import ImageOfMain


class GatheredContent:
    """A state of which each rank has parts, and which becomes one file; see `Content`."""

    def __init__(self, job: Job, state: Any, path: str, crew: Crew) -> None:
        """Plans the file; all ranks call this."""
        self._job, self._path, self._crew = job, path, crew
        self._parts = crew.done(lambda: Parts(state))
        shapes = [(tuple(one.shape), str(one.dtype)) for one in self._parts.tensors]
        crew.meet(f"{job.path}: {shapes}")
        self._encoded = crew.done(lambda: encode(self._parts.state) if crew.here.is_main else None)
        # The pickler meets tensors in an order of its own.
        self._order: list[int] = crew.here.told(self._encoded and self._parts.order(self._encoded))

    def write(self) -> Written:
        """Writes the file while it is gathered."""
        gathering = Gathering(self._parts, self._order)
        done: Written | None = None
        failed: Exception | None = None
        if self._encoded is not None:
            job, how = self._job, (self._job.overwrite, self._job.how.statistics)
            try:
                data = self._data(self._encoded, gathering)
                done = writer.write_encoded(self._path, self._encoded, data, job.manifest, *how)
            except Exception as error:  # noqa: BLE001 - raised at all ranks
                failed = error
        try:
            gathering.finish()
        except RankError as error:
            failed = failed or error
        try:
            share(self._crew.here, failed)
        finally:
            del failed  # its frames would hold the state
        written: Written = self._crew.here.told(done)
        return written

    def _data(self, encoded: Encoded, gathering: "Gathering") -> Iterator[tuple[str, memoryview]]:
        for key, storage in encoded.storages.items():
            if self._parts.number(storage) is None:
                local = on_cpu(storage)
                yield f"data/{key}", memory(local.data_ptr(), local.nbytes())
            else:
                whole = gathering.next()
                yield f"data/{key}", memory(whole.data_ptr(), whole.nbytes)

    def image(self) -> "GatheredImage":
        """Prepares a copy, which rank 0 has alone."""
        made = None if self._encoded is None else FileImage(self._job, self._encoded, self._path)
        return GatheredImage(made, self._parts, self._order, self._crew)


class GatheredImage(ImageOfMain):
    """A copy that rank 0 gathers, and writes."""

    def __init__(self, image: FileImage | None, parts: "Parts", order: list[int], crew: Crew) -> None:
        """Takes the copy, which rank 0 has alone, and what is gathered into it."""
        super().__init__(image, crew)
        own = image.pieces if image else []
        self._targets = [one for one in own if parts.number(one.storage) is not None]
        self._rest = [one for one in own if parts.number(one.storage) is None]
        self._gathering = Gathering(parts, order)

    @property
    def pieces(self) -> list[Piece]:
        """What rank 0 has all of."""
        return self._rest

    def fill(self, memory: memoryview) -> None:
        """Gathers the rest, into its place."""
        failed: Exception | None = None
        try:
            for one in self._targets:
                whole = self._gathering.next()
                place = torch.frombuffer(memory[one.at : one.at + one.size_bytes], dtype=torch.uint8)
                place.copy_(whole.reshape(-1).view(torch.uint8))
            self._gathering.finish()
        except RankError as error:
            failed = error
        share(self._crew.here, failed)


class Parts:
    """The tensors of a state of which each rank has a part, and the state with others in their places.

    Attributes:
        state: with tensors that have no memory of their own.
        tensors: that these stand for, in an order that is the same at all ranks.
    """

    def __init__(self, state: Any) -> None:
        """Takes the state."""
        self.tensors: list[torch.Tensor] = []
        self._stand_ins: list[torch.Tensor] = []
        self._memory: mmap.mmap | None = None
        self.state = replaced(state, is_part, lambda one: self._stand_in(one) if is_part(one) else one)
        self._numbers = {
            one.untyped_storage()._cdata: number  # noqa: SLF001 - their identities
            for number, one in enumerate(self._stand_ins)
        }

    def _stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        size = tensor.numel() * tensor.element_size()
        made = torch.empty(tensor.shape, dtype=tensor.dtype)
        if size > mmap.PAGESIZE:
            # Nothing is written to it, so that it takes no memory; each has a storage, of the same addresses.
            if self._memory is None or len(self._memory) < size:
                self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            made = torch.frombuffer(self._memory, dtype=torch.uint8, count=size)
            made = made.view(tensor.dtype).view(tensor.shape)
        self.tensors.append(tensor)
        self._stand_ins.append(made)
        return made

    def number(self, storage: torch.UntypedStorage) -> int | None:
        """Which tensor a storage stands for; None: none."""
        return self._numbers.get(storage._cdata)  # noqa: SLF001

    def order(self, encoded: Encoded) -> list[int]:
        """The tensors, in the order of the file."""
        found = (self.number(one) for one in encoded.storages.values())
        return [number for number in found if number is not None]


class Gathering:
    """Gathers tensors, one after the other; all ranks gather all of them, whatever fails."""

    def __init__(self, parts: Parts, order: list[int]) -> None:
        """Takes the tensors, and the order in which they are gathered."""
        self._tensors, self._order, self._done = parts.tensors, order, 0

    def next(self) -> torch.Tensor:
        """The next one, whole, contiguous and on the CPU.

        Raises:
            RankError: another rank has ended.
        """
        tensor: Any = self._tensors[self._order[self._done]]
        self._done += 1
        try:
            whole: torch.Tensor = tensor.full_tensor().detach().cpu().contiguous()
        except RuntimeError as error:
            self._done = len(self._order)
            raise RankError(f"a tensor cannot be gathered: {error}") from error
        return whole

    def finish(self) -> None:
        """Gathers what is left, for the other ranks.

        Raises:
            RankError: another rank has ended.
        """
        while self._done < len(self._order):
            self.next()
