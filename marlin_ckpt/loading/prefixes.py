"""Finds the one cause of many names that differ: a wrapper, such as DDP's or torch.compile's, on one side."""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

# What DDP, torch.compile, FSDP, activation checkpointing and DeepSpeed put into names.
_WRAPPERS = {
    "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module",
}  # fmt: skip


def explain(in_file: Iterable[str], here: Iterable[str], missing: Iterable[str]) -> str:
    """Says how the names in a file differ from those here, where one difference explains all that is missing.

    Args:
        in_file: the names of the file's tensors.
        here: the names of the live ones.
        missing: those of the live ones that the file has not.

    Returns:
        a sentence, or "".
    """
    theirs, ours, lacking = set(in_file), set(here), sorted(missing)
    if not lacking or not theirs:
        return ""
    if prefix := prefix_of(theirs, lacking):
        return f"the names in the file begin with the prefix {prefix!r}, which those here do not have"
    extra = sorted(theirs - ours)
    if extra and (prefix := _prefix(extra[0], ours, lambda one: one in ours, extra)):
        return f"the names here begin with the prefix {prefix!r}, which those in the file do not have"
    return _inserted(theirs, ours, lacking)


def prefix_of(in_file: Iterable[str], missing: Iterable[str]) -> str:
    """The prefix without which the names in a file would be those here; "" where there is none.

    Args:
        in_file: as for `explain`.
        missing: as for `explain`.
    """
    theirs, lacking = set(in_file), sorted(missing)
    return _prefix(lacking[0], theirs, lambda one: one in theirs, lacking) if lacking else ""


def _prefix(
    name: str, others: AbstractSet[str], is_there: Callable[[str], bool], names: Iterable[str]
) -> str:
    """What stands before each of some names among the others; "" where there is no such one."""
    ends = sorted((other for other in others if other.endswith(f".{name}")), key=len)
    candidates = (other.removesuffix(name) for other in ends)
    return next((one for one in candidates if all(is_there(one + each) for each in names)), "")


def _inserted(theirs: AbstractSet[str], ours: AbstractSet[str], missing: Iterable[str]) -> str:
    """A part of the names, anywhere in them, that only one side has."""
    own, others = _parts(ours), _parts(theirs)
    extra, lacking = others - own, own - others
    if extra and lacking and not (extra | lacking) <= _WRAPPERS:
        return ""
    here, there = _without(ours, lacking), _without(theirs, extra)
    if len(there) < len(theirs) or len(here) < len(ours):  # two names would become one
        return ""
    if not {_drop(one, lacking) for one in missing} <= there:
        return ""
    told = [
        f"those in the {where} have the prefix {', '.join(repr(f'{part}.') for part in sorted(parts))} within"
        for where, parts in (("file", extra), ("live object", lacking))
        if parts
    ]
    return f"the names differ by one thing: {' and '.join(told)}" if told else ""


def _parts(names: AbstractSet[str]) -> set[str]:
    """What may be a wrapper's: all parts of the names but the last."""
    return {part for name in names for part in name.split(".")[:-1]}


def _drop(name: str, parts: AbstractSet[str]) -> str:
    *path, last = name.split(".")
    return ".".join([*(part for part in path if part not in parts), last])


def _without(names: AbstractSet[str], parts: AbstractSet[str]) -> set[str]:
    return {_drop(name, parts) for name in names}
