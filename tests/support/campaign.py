"""The parts of the campaign: which files of tests run together at their full size."""

from __future__ import annotations

from pathlib import Path

from tests.support.folders import REPOSITORY

TESTS = REPOSITORY / "tests"
# By part, the files of tests in it; each part takes about ten minutes.
PARTS = {
    "faults": ["adversity/test_faults.py"],  # 40,000 damaged files
    "files": [  # damaged files, and whatever states can be saved
        "unit/formats/test_budget.py",
        "unit/formats/test_damage.py",
        "unit/formats/test_oracle.py",
        "unit/formats/test_oracle_controls.py",
        "unit/formats/test_oracle_sizes.py",
        "unit/formats/test_verification.py",
        "unit/loading/test_load_anything.py",
        "unit/loading/test_load_into.py",
        "unit/operations/test_salvage.py",
        "unit/package/test_read_checkpoint.py",
        "unit/saving/test_save_turns.py",
    ],
    "hostile": [  # files made to attack whoever reads them
        "adversity/test_damaged_folders.py",
        "adversity/test_hostile.py",
        "adversity/test_hostile_folders.py",
        "adversity/test_sharded_flips.py",
        "adversity/test_show.py",
        "adversity/test_weights.py",
    ],
    "kills": [
        "adversity/test_async.py",
        "adversity/test_failing_saves.py",
        "adversity/test_history_kills.py",
        "adversity/test_kills.py",
        "adversity/test_sharded.py",
        "adversity/test_rank_kills.py",
        "adversity/test_transaction_kills.py",
    ],
    "peers": [  # trainings with other packages, killed while they save
        "integrations/test_accelerate.py",
        "integrations/test_ignite.py",
        "integrations/test_lightning_kills.py",
        "integrations/test_transformers_kills.py",
    ],
    "power": [
        "adversity/test_power.py",
        "adversity/test_power_blocks.py",
        "adversity/test_power_folders.py",
        "adversity/test_power_sharded.py",
        "adversity/test_power_shared.py",
        "adversity/test_power_trash.py",
    ],
    "calls": [  # that fail, by themselves, by the kernel, and on a full disk
        "adversity/test_calls.py",
        "adversity/test_calls_direct.py",
        "adversity/test_disk.py",
        "adversity/test_errno.py",
        "adversity/test_shared_blocks.py",
        "adversity/test_shared_calls.py",
        "adversity/test_strace.py",
        "adversity/test_strace_shared.py",
        "adversity/test_transaction_calls.py",
        "unit/checkpointer/test_sharing_of_ranks.py",
    ],
    "races": [  # of processes, of threads, and of those that plant links
        "adversity/test_planted.py",
        "adversity/test_races.py",
        "adversity/test_writers.py",
        "unit/directory/test_lease.py",
        "unit/saving/test_async_races.py",
        "unit/saving/test_async_schedules.py",
        "unit/saving/test_cadence.py",
        "unit/saving/test_inside_steps.py",
    ],
    "remote": [  # object stores, of which requests, answers and savers are lost
        "adversity/test_s3.py",
        "adversity/test_s3_copies.py",
        "adversity/test_s3_flips.py",
        "adversity/test_s3_kills.py",
        "adversity/test_s3_moves.py",
        "adversity/test_s3_many.py",
        "adversity/test_s3_races.py",
        "adversity/test_s3_lives.py",
        "unit/storage/test_s3_copying.py",
    ],
    "retention": ["adversity/test_removal.py", "adversity/test_retention.py"],
    "resume": [
        "cli/test_prove_resume.py",
        "cli/test_train_ranks.py",
        "cli/test_terminal.py",
        "unit/distributed/test_resharding.py",
        "unit/package/test_docs.py",
        "unit/training/parallel/test_ddp.py",
    ],
    "supervisor": ["adversity/test_supervisor.py"],
    "torchrun": ["adversity/test_torchrun_kills.py", "integrations/test_torchrun.py"],
    "wheel": ["unit/package/test_extras.py"],  # in an empty environment with each extra
}


def part_of(path: Path) -> str | None:
    """The part that a file of tests belongs to; None where it belongs to none."""
    name = path.relative_to(TESTS).as_posix()
    return next((part for part, names in PARTS.items() if name in names), None)
