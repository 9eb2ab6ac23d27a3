"""Made-up reports of runs: of any number of checkpoints, runs and tensors, with all that can go wrong."""

from __future__ import annotations

import datetime
import math
import random

from marlin_ckpt.operations.report.course import Happening, MeasuredPoint, Point, Run, Start
from marlin_ckpt.operations.report.values import Banner, Best, Report, Retention, Totals
from tests.support.report_tensors import histogram, movement, sizes, tensors

BEGIN = datetime.datetime(2026, 11, 26, 9, 12, 30, tzinfo=datetime.UTC)
STEPS = 250  # from one checkpoint to the next
VERSIONS = {"marlin_ckpt": "0.2.0", "torch": "2.13.0", "python": "3.11.7"}
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "a\"b'c&d",
    "\u202egnp.exe",
    "\u05e9\u05dc\u05d5\u05dd",
    "x" * 300,
    "]]>",
)
BANNERS = (
    Banner(
        severity="bad",
        what="model_2750.pt is damaged: the CRC of record archive/data/74 does not hold.",
        hint="marlin-ckpt salvage runs/gpt-small/model_2750.pt -o rescued.pt",
    ),
    Banner(
        severity="bad",
        what="NaN in 2 tensors of the newest checkpoint: layers.0.mlp.up.weight, layers.0.norm2.weight.",
        hint="marlin-ckpt show runs/gpt-small/model_3000.pt --stats 'layers.0.mlp.*'",
    ),
    Banner(severity="warn", what="A save failed: no space left on device."),
    Banner(severity="note", what="The disk has room for 41 more checkpoints."),
)


def at(minutes: float) -> str:
    """So many minutes after the first run began."""
    moment = BEGIN + datetime.timedelta(minutes=minutes)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def metrics(rng: random.Random, step: int, last: int, pace: float) -> dict[str, float]:
    """Those of a run that learns, with a spike at three quarters of it."""
    done = step / last
    spike = 6 * math.exp(-(((done - 0.75) / 0.02) ** 2))
    train = 3.2 * math.exp(-4 * done * pace) + 0.05 + spike + rng.random() * 0.04
    return {
        "train_loss": train,
        "val_loss": train * 1.12 + 0.1 + rng.random() * 0.05,
        "val_accuracy": 0.35 + 0.4 * (1 - math.exp(-3 * done * pace)) - spike / 40,
        "lr": 1e-3 * min(1, done * 10) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6,
    }


class Course:
    """What happens in runs, one after the other; half of each is stopped or killed, and resumed."""

    def __init__(self, seed: int, *, bad: bool, names_of_runs: bool) -> None:
        self.rng = random.Random(seed)
        self.bad, self.names_of_runs = bad, names_of_runs
        self.minute = 0.0
        self.points: list[Point] = []
        self.measured: list[MeasuredPoint] = []
        self.happenings: list[Happening] = []
        self.runs: list[Run] = []

    def run(self, saves: int, epochs: int, *, is_last: bool) -> None:
        """One run, of so many saves with so many epochs for each."""
        run_id, number = f"{self.rng.getrandbits(48):012x}", len(self.runs)
        pace, starts, begun, resumed = 0.9 + 0.2 * self.rng.random() + 0.1 * number, [], self.minute, ""
        self.note("started", run_id)
        for save in range(1, saves + 1):
            self.train(run_id, save, saves, epochs, pace)
            self.save(run_id, save, saves, is_last=is_last)
            if self.bad and save == saves // 3 + 1:
                self.note("save failed", run_id, what="no space left on device", step=save * STEPS)
            if save == saves // 2 and saves >= 6:
                self.train(run_id, save + 1, saves, 2 * epochs, pace, most=epochs)
                starts.append(self.end(run_id, begun, resumed, "killed" if number % 2 else "stopped"))
                self.minute += 60 * 14
                begun, resumed = self.minute, self.points[-1].name
                self.note("resumed", run_id, what=f"from {resumed}", name=resumed)
        self.minute += 3
        starts.append(self.end(run_id, begun, resumed, "unknown" if is_last else "finished"))
        self.runs.append(Run(run_id=run_id, starts=tuple(starts)))
        self.minute += 25

    def train(self, run_id: str, save: int, saves: int, epochs: int, pace: float, most: int = 10**9) -> None:
        """The epochs up to a save, or the first of them; the last of a run gives NaN where all goes wrong."""
        for part in range(1, min(epochs, most) + 1):
            self.minute += 8 / epochs
            step = (save - 1) * STEPS + STEPS * part // epochs
            found = metrics(self.rng, step, saves * STEPS, pace)
            if self.bad and step == saves * STEPS:
                found["train_loss"] = math.nan
            epoch = (save - 1) * epochs + part - 1
            self.measured.append(
                MeasuredPoint(run_id=run_id, epoch=epoch, step=step, at=at(self.minute), metrics=found)
            )

    def save(self, run_id: str, save: int, saves: int, *, is_last: bool) -> None:
        """A checkpoint; retention has removed all but every fourth and the last three."""
        step, is_there = save * STEPS, save > saves - 3 or save % 4 == 0
        damaged = self.bad and is_last and save == saves - 1
        why = ("one of the last 3",) * (save > saves - 3) + ("every 1000 steps",) * (save % 4 == 0)
        self.points.append(
            Point(
                run_id=run_id,
                name=f"run{len(self.runs)}_{step}.pt" if self.names_of_runs else f"model_{step}.pt",
                index=step,
                save_number=save,
                step=step,
                at=at(self.minute + 0.2),
                size_bytes=int(1.36e9 + self.rng.random() * 4e7),
                is_there=is_there,
                complete=not damaged if is_there else None,
                reason="the CRC of record archive/data/74 does not hold" if damaged else "",
                metrics=self.measured[-1].metrics,
                stall_s=0.02 + 0.01 * self.rng.random() + 1.8 * (save == saves // 3),
                copy_s=0.2,
                write_s=1.1 + self.rng.random(),
                sync_s=0.6,
                removed_by="" if is_there else "keep",
                removed_reason="" if is_there else "no rule keeps it",
                removed_at="" if is_there else at(self.minute + 30),
                keeps=save != saves - 4 if is_there else None,
                reasons=why if is_there and save != saves - 4 else (),
            )
        )

    def end(self, run_id: str, begun: float, resumed: str, how: str) -> Start:
        """The end of a process."""
        if how == "stopped":
            self.note("signal", run_id, what="SIGTERM")
        if how not in ("killed", "unknown"):
            self.note("ended", run_id, what=how)
        passed = {"model_9999.pt": "incomplete: the end is missing"} if self.bad and resumed else {}
        return Start(
            at=at(begun),
            ended_at=None if how in ("killed", "unknown") else at(self.minute),
            how=how,
            git_commit="3f9c2d1e8ab4",
            config_sha256="9b7c1f0e" * 8,
            versions=VERSIONS,
            world_size=8,
            resumed_from=resumed,
            passed_over=passed,
        )

    def note(self, kind: str, run_id: str, what: str = "", name: str = "", step: int | None = None) -> None:
        """Something that happens now."""
        when = at(self.minute)
        self.happenings.append(Happening(kind=kind, run_id=run_id, at=when, what=what, name=name, step=step))


def make(
    checkpoints: int = 12,
    runs: int = 1,
    tensors_: int = 40,
    *,
    bad: bool = True,
    seed: int = 1,
    statistics: bool = True,
    histograms: bool = False,
    measured: int | None = None,
    directory: str = "runs/gpt-small",
) -> Report:
    """A report.

    Args:
        checkpoints: how many, of all runs together.
        runs: how many.
        tensors_: of the module.
        bad: damage, failed saves, NaN.
        seed: of what is random.
        statistics: whether there is a heat map.
        histograms: whether values were read.
        measured: epochs with metrics; None: two for each checkpoint.
        directory: its name.
    """
    course = Course(seed, bad=bad, names_of_runs=runs > 1)
    for number in range(runs):
        mine = checkpoints // runs + (number < checkpoints % runs)
        epochs = 2 if measured is None else max(1, measured // checkpoints)
        course.run(mine, epochs, is_last=number == runs - 1)
    points, names = course.points, tensors(tensors_)
    columns = [place for place, one in enumerate(points) if one.run_id == course.runs[-1].run_id]
    kept = [one for one in points if one.keeps]
    would = [one for one in points if one.is_there and one.keeps is False]
    gone = [one for one in points if not one.is_there]
    rules = Retention(
        run_id="",
        rules="last 3, every 1000 steps, best val_loss:min:2",
        source="run",
        kept=len(kept),
        kept_bytes=sum(one.size_bytes for one in kept),
        removed=len(would),
        removed_bytes=sum(one.size_bytes for one in would),
        options="--keep-last 3",
    )
    return Report(
        directory=directory,
        made=at(course.minute + 100),
        version="0.2.0",
        runs=tuple(course.runs),
        points=tuple(points),
        measured=tuple(course.measured),
        happenings=tuple(course.happenings),
        movement=movement(course.rng, names, columns, bad=bad) if statistics and columns else None,
        histograms=tuple(histogram(course.rng, one) for one in names) if histograms else (),
        sizes=sizes(names) if points else (),
        newest=len(points) - 1 if points else None,
        retention=(rules,) if points else (),
        best=tuple(bests(points)),
        banners=BANNERS if bad else (),
        totals=Totals(
            checkpoints=len(points) - len(gone),
            size_bytes=sum(one.size_bytes for one in points if one.is_there),
            removed=len(gone),
            freed_bytes=sum(one.size_bytes for one in gone),
            failed_saves=sum(one.kind == "save failed" for one in course.happenings),
            incomplete=sum(one.complete is False for one in points),
        ),
    )


def bests(points: list[Point]) -> list[Best]:
    """The best that is there, of each run and of two metrics."""
    found = []
    for run_id in dict.fromkeys(one.run_id for one in points):
        mine = [(place, one) for place, one in enumerate(points) if one.run_id == run_id and one.is_there]
        for metric, mode, choose in (("val_loss", "min", min), ("val_accuracy", "max", max)):
            place, one = choose(mine, key=lambda pair, metric=metric: pair[1].metrics[metric])
            value = one.metrics[metric]
            found.append(
                Best(
                    run_id=run_id,
                    metric=metric,
                    mode=mode,
                    point=place,
                    name=one.name,
                    index=one.index,
                    value=value,
                )
            )
    return found
