"""Lightning, and NeMo: `epoch=2-step=6-val_loss=0.12-v1`, or what a user's template makes of such pairs.

Source: `ModelCheckpoint._format_checkpoint_name` and `_get_metric_interpolated_filepath_name`. A name counts
where a step or an epoch is in it; metrics, whatever they are called, are passed over.
"""

import re

from marlin_ckpt.grammars.grammar import Grammar, Reading

# Not the beginning of a decimal or of a number with an exponent, which only a metric has.
_PAIR = re.compile(r"(?:^|[^A-Za-z0-9])(step|epoch)=([0-9]+)(?![0-9.]*[0-9])(?![eE][-+]?[0-9])")
_VERSION = re.compile(r"-v([0-9]+)$")
_LAST = re.compile(r"last(?:-v(?P<version>[0-9]+))?")


class _Lightning(Grammar):
    has_metrics = True

    def read(self, stem: str) -> Reading | None:
        found = _LAST.fullmatch(stem)
        if found:
            return Reading(version=int(found["version"] or 0))
        values: dict[str, set[int]] = {"step": set(), "epoch": set()}
        for key, digits in _PAIR.findall(stem):
            values[key].add(int(digits))
        if not any(values.values()) or any(len(one) > 1 for one in values.values()):
            return None
        version = _VERSION.search(stem)
        step, epoch = (next(iter(values[key]), None) for key in ("step", "epoch"))
        return Reading(step, epoch, int(version[1]) if version else 0)


GRAMMAR = _Lightning()
