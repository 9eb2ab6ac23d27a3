"""Sets up the process before a run's first step: device, seeds, determinism."""

import os
import warnings

import torch

from marlin_ckpt.arguments import TrainerArguments
from marlin_ckpt.errors import TrainingError
from marlin_ckpt.training.resume import rng

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS, "Results Reproducibility"


def device_of(args: TrainerArguments, local_rank: int | None = None) -> torch.device:
    """The device that the arguments choose.

    Args:
        args: the trainer's.
        local_rank: of a process among many of a machine, each of which takes a CUDA device of its own where
            the arguments do not name one.

    Raises:
        TrainingError: it is not available.
    """
    chosen = args.device
    if chosen == "auto":
        chosen = "cuda" if args.use_gpu and torch.cuda.is_available() else "cpu"
        if chosen == "cpu" or local_rank is None:
            return torch.device(chosen)
    try:
        device = torch.device(chosen)
        if device.type == "cuda" and device.index is None and local_rank is not None:
            device = torch.device("cuda", local_rank)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        of_rank = "" if local_rank is None else f" for the rank {local_rank} of this machine"
        what = f"the device {args.device!r} is not there{of_rank}"
        raise TrainingError(what, hint="trainer.device: auto takes CUDA where it is, else the CPU") from error
    return device


def expect_schedules_first() -> None:
    """Silences torch's warning of a schedule that steps before any optimizer, which is right in two cases.

    A resumed run may begin at an epoch's end, and the scaler of mixed precision may skip the first steps.
    """
    warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)` before")


def before_module(args: TrainerArguments) -> None:
    """Seeds what a module draws when it is made; makes torch deterministic where the arguments say so."""
    if args.deterministic:
        os.environ.setdefault(_WORKSPACE, ":4096:8")
        torch.use_deterministic_algorithms(mode=True)
        torch.backends.cudnn.benchmark = False
    if args.seed is not None:
        rng.seed_all(args.seed)


def before_training(args: TrainerArguments) -> int:
    """Seeds what training draws, and returns the seed of the data's order.

    Where the arguments have no seed, one is drawn, which depends on a seed that the caller may have set.
    """
    before_module(args)
    if args.seed is None:
        return int(torch.randint(2**31, ()))
    rng.seed_all(rng.derived(args.seed, "training"))
    return args.seed
