"""Copies from CUDA devices, in parallel to the work that each device is given afterwards."""

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch.storage import UntypedStorage

Target = tuple[memoryview, UntypedStorage, int]

_PORTABLE = 1  # cudaHostRegisterPortable, driver_types.h: pinned for every device


class DeviceCopies:
    """Copies of storages on devices into this process's memory, each device's on a stream of its own.

    A copy waits for the work that its device's current stream has been given before it. Where the memory is
    pinned, neither later work of the device nor the caller waits for the copy.
    """

    def __init__(self, copies: Iterable[Target]) -> None:
        """Begins to copy.

        Args:
            copies: where bytes are to go, the storages that they are in, and where they begin in these; both
                are kept alive until `wait` returns.
        """
        self._copies = [one for one in copies if len(one[0])]
        self._events: list[tuple[torch.device, torch.cuda.Event]] = []
        try:
            for device in dict.fromkeys(storage.device for _, storage, _ in self._copies):
                self._begin(device)
        except BaseException:
            self.wait()  # or they would write into memory that is by then used for something else
            raise

    def _begin(self, device: torch.device) -> None:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
            self._events.append((device, event))
            with torch.cuda.stream(stream):
                try:
                    for target, storage, start in self._copies:
                        if storage.device == device:
                            source = torch.empty(0, dtype=torch.uint8, device=device)
                            source.set_(storage, start, (len(target),), (1,))
                            torch.frombuffer(target, dtype=torch.uint8).copy_(source, non_blocking=True)
                finally:
                    event.record(stream)

    def before_change(self) -> None:
        """Makes all later work of the devices wait for the copies; the caller does not wait."""
        for device, event in self._events:
            torch.cuda.current_stream(device).wait_event(event)

    def wait(self) -> None:
        """Waits for the copies."""
        while self._events:
            self._events[-1][1].synchronize()
            self._events.pop()
        self._copies.clear()


def pin(address: int, size_bytes: int) -> bool:
    """Pins memory, so that devices copy to it by themselves; returns whether it could be."""
    return _succeeded(_runtime().cudaHostRegister(address, size_bytes, _PORTABLE))


def unpin(address: int) -> None:
    """Undoes `pin`, before the memory is given back."""
    _succeeded(_runtime().cudaHostUnregister(address))


def _succeeded(code: Any) -> bool:
    """Whether a call has succeeded; an error of it is not raised by what is done on a device afterwards."""
    if not int(code):
        return True
    # The runtime keeps the error for whoever asks next: torch, after its next kernel.
    with contextlib.suppress(RuntimeError):
        _run_a_kernel()
    return False


def _run_a_kernel() -> None:
    torch.ones(1, device="cuda")


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
