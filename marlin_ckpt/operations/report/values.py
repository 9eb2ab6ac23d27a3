"""What a report says of a directory of checkpoints, as values; `--json` has the same names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from marlin_ckpt.operations.report.course import Happening, MeasuredPoint, Point, Run

Rows = tuple[tuple[float | None, ...], ...]  # one row a tensor, one number a column
Counts = tuple[tuple[int | None, ...], ...]
Flags = tuple[tuple[bool | None, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """What the module's tensors did from checkpoint to checkpoint, by statistics.

    Rows are tensors, columns checkpoints; None stands where a checkpoint does not have the tensor.

    Attributes:
        tensors: their names, as torch names them, in the order of the newest checkpoint.
        columns: of each checkpoint the place in `Report.points`, in order of save.
        change: of the norm, |norm - norm before| / norm before; before is the column to the left, if it is
            of the same run. None in a run's first column and where a norm is not finite or was 0.
        norms: L2 norms; NaN or infinite where values are.
        nans: how many values are NaN.
        infinities: how many values are infinite.
        dead: whether all values are equal, as all zero, in a tensor of several.
        how: `files` where all statistics were in the checkpoints, `read` where `--stats` read tensors.
        missing: how many complete checkpoints have no statistics.
        left_out: how many that have are no columns, where there are too many.
    """

    tensors: tuple[str, ...]
    columns: tuple[int, ...]
    change: Rows
    norms: Rows
    nans: Counts
    infinities: Counts
    dead: Flags
    how: Literal["files", "read"]
    missing: int = 0
    left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How the finite values of a tensor of the newest complete checkpoint spread.

    Attributes:
        tensor: its name, as torch names it.
        counts: how many values are in each of equal intervals from `low` to `high`.
        low: the least value; NaN, as the next, where none is finite.
        high: the greatest value.
    """

    tensor: str
    counts: tuple[int, ...]
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a tensor of the newest complete checkpoint takes.

    Attributes:
        name: of the tensor: in the module as torch names it; of an optimizer's the parameter's name and what
            it is of that, `layers.0.weight: exp_avg`, where that is known; else its place in the file.
        group: `module`, `optimizer` or `other`.
        dtype: of its elements.
        shape: of it.
        size_bytes: in bytes; 0 where another tensor shares its data and has them.
    """

    name: str
    group: Literal["module", "optimizer", "other"]
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What rules would do with the checkpoints of a run, by their manifests.

    Attributes:
        run_id: of the run; "" where the rules are for all.
        rules: in words, such as `last 3, best val_loss:min:2`.
        source: `run` where the run's last start has them, `options` where the command line has.
        kept: how many checkpoints stay.
        kept_bytes: what those take together.
        removed: how many would go.
        removed_bytes: what that would give back.
        options: the same rules as options of `clean`.
    """

    run_id: str
    rules: str
    source: Literal["run", "options"]
    kept: int
    kept_bytes: int
    removed: int
    removed_bytes: int
    options: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best checkpoint of a run by a metric.

    Attributes:
        run_id: of the run.
        metric: its name.
        mode: `min` or `max`.
        point: the place in `Report.points`.
        name: of the checkpoint.
        index: of it.
        value: of the metric.
        is_there: whether the directory still has it. Where it has not, the best of those that it has follows.
        source: `rules` where the run's rules name the metric, else `name`: the metric's name says it.
    """

    run_id: str
    metric: str
    mode: str
    point: int
    name: str
    index: int | None
    value: float
    is_there: bool = True
    source: Literal["rules", "name"] = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Banner:
    """What a reader should know first.

    Attributes:
        severity: `bad`, `warn` or `note`.
        what: one or two sentences.
        hint: a command to type; "" where there is none.
    """

    severity: Literal["bad", "warn", "note"]
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all points.

    Attributes:
        checkpoints: how many are there, without model files and files of other names.
        other_files: how many of those are there.
        size_bytes: the lengths of all of these together.
        disk_bytes: what they take on the disk together, where what they share counts once; None where that
            is not known.
        removed: how many are no longer there.
        freed_bytes: the lengths of those together.
        failed_saves: how many saves failed.
        incomplete: how many of those that are there are not complete.
    """

    checkpoints: int = 0
    other_files: int = 0
    size_bytes: int = 0
    disk_bytes: int | None = None
    removed: int = 0
    freed_bytes: int = 0
    failed_saves: int = 0
    incomplete: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that a report says.

    Attributes:
        directory: that it is of, or the one file.
        is_directory: whether it is of a directory.
        made: when it was made, in UTC in ISO 8601.
        version: of marlin-ckpt.
        runs: in order of their first start.
        points: what was saved, run by run, in order of save.
        measured: metrics by epoch, in the order in which they were written.
        happenings: in the order in which they were written.
        movement: None where no checkpoint has statistics.
        histograms: of the newest complete checkpoint, with `--stats`.
        sizes: of the newest complete checkpoint.
        newest: its place in `points`, and that of `sizes` and `histograms`; None where there is none.
        retention: one for each run that has rules, or one for all.
        best: by each metric that has a best.
        banners: the worst first.
        totals: sums.
        other: the directory that it is compared with.
    """

    directory: str
    made: str
    version: str
    is_directory: bool = True
    runs: tuple[Run, ...] = ()
    points: tuple[Point, ...] = ()
    measured: tuple[MeasuredPoint, ...] = ()
    happenings: tuple[Happening, ...] = ()
    movement: Movement | None = None
    histograms: tuple[Histogram, ...] = ()
    sizes: tuple[Size, ...] = ()
    newest: int | None = None
    retention: tuple[Retention, ...] = ()
    best: tuple[Best, ...] = ()
    banners: tuple[Banner, ...] = ()
    totals: Totals = field(default_factory=Totals)
    other: Report | None = None
