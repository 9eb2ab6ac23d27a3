"""Which metrics `list` shows, and which checkpoints it marks."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from marlin_ckpt import naming
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.operations.listing.order import arrange, metric, run_of

_LESS_IS_BETTER = frozenset(("perplexity", "ppl", "error", "err", "nll", "mse", "rmse", "mae", "wer", "cer"))
_MORE_IS_BETTER = frozenset((
    "acc", "accuracy", "f1", "auc", "auroc", "bleu", "rouge", "iou", "miou", "map", "precision", "recall",
    "reward", "r2", "psnr", "ssim", "dice",
))  # fmt: skip
_MOST_METRICS = 4  # printed without being asked for
_PACES = ("_runtime", "_per_second")  # of an evaluation by a Trainer of Transformers


class Marks(NamedTuple):
    """What is marked in a listing.

    Attributes:
        newest: the paths of the newest checkpoints, one of each run that has several.
        best: by the names of metrics the path of the checkpoint that has the best value.
    """

    newest: frozenset[str]
    best: Mapping[str, str]


def marks(found: Sequence[Inspection], names: Iterable[str], best: tuple[str, str] | None = None) -> Marks:
    """Finds the newest and the best of what is not known to be damaged.

    Args:
        found: the files.
        names: of metrics.
        best: a metric, and `min` or `max`; of other metrics their names have to say which values are better.
    """
    sound = [one for one in found if one.complete is not False and one.entry.index is not None]
    sound = [one for one in sound if one.kind == naming.Kind.CHECKPOINT] or sound
    runs: dict[tuple[str, str], list[Inspection]] = {}
    for one in sound:
        runs.setdefault(run_of(one), []).append(one)
    newest = [max(files, key=lambda one: one.entry.index or 0) for files in runs.values() if len(files) > 1]
    of_metrics = {}
    for name in names:
        mode = best[1] if best and best[0] == name else usual_mode(name)
        ranked = arrange(sound, best=(name, mode)) if mode else []
        if len(ranked) > 1 and metric(ranked[0], name) != metric(ranked[-1], name):
            of_metrics[name] = ranked[0].entry.path
    return Marks(frozenset(one.entry.path for one in newest), of_metrics)


def usual_mode(name: str) -> str:
    """Whether `min` or `max` of a metric is best by its name, such as `val_loss`; "" if that is not known."""
    words = {*re.split(r"[^a-z0-9]+", name.lower())}
    if "loss" in name.lower() or words & _LESS_IS_BETTER:
        return "min"
    return "max" if words & _MORE_IS_BETTER else ""


def usual_metrics(names: Sequence[str], asked: Collection[str] = ()) -> list[str]:
    """The metrics that `list` prints where none is chosen: few enough for a line.

    Args:
        names: of all metrics.
        asked: which of them the user has named; they come first.

    Returns:
        all, if there are no more than four; else the losses, then those of an evaluation that are no times or
        speeds, or, where there are none of either, the first.
    """
    if len(names) <= _MOST_METRICS:
        return list(names)
    quantities = [name for name in names if not name.endswith(_PACES)]
    losses = [name for name in quantities if "loss" in name]
    evaluated = [name for name in quantities if name.startswith(("eval_", "val_"))]
    usual = [*asked, *losses, *evaluated]
    return list(dict.fromkeys(usual or quantities or names))[:_MOST_METRICS]
