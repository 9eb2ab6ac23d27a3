"""Which optimizer a state_dict is of; it carries no name, but the keys of its groups tell."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from marlin_ckpt.formats.content.node import Node, NodeKind
from marlin_ckpt.formats.pickle.labels import join, key_text

# Keys of a group that no other optimizer of torch.optim has together, most telling first; torch 2.13. Older
# versions lack some keys, which are therefore not asked for.
_GROUP_KEYS = (
    ("NAdam", {"betas", "momentum_decay"}), ("LBFGS", {"max_iter", "history_size", "tolerance_grad"}),
    ("Muon", {"momentum", "ns_coefficients"}), ("SGD", {"momentum", "dampening", "nesterov"}),
    ("RMSprop", {"alpha", "centered", "momentum"}), ("ASGD", {"lambd", "alpha", "t0"}),
    ("Rprop", {"etas", "step_sizes"}), ("Adafactor", {"beta2_decay", "d"}),
    ("Adagrad", {"lr_decay", "initial_accumulator_value"}), ("Adadelta", {"rho", "eps"}),
    ("Adam", {"betas", "amsgrad"}), ("RAdam", {"betas", "decoupled_weight_decay"}),
    ("Adamax", {"betas", "maximize", "weight_decay"}), ("SparseAdam", {"betas", "maximize"}),
)  # fmt: skip
# By what is kept for each parameter, where the groups' keys are of no class that is known.
_STATE_KEYS = (
    ("of the kind of Adam", {"exp_avg", "exp_avg_sq"}),
    ("of the kind of Lion", {"exp_avg"}),
    ("of the kind of SGD", {"momentum_buffer"}),
)


class Optimizer(NamedTuple):
    """The state of one optimizer.

    Attributes:
        name: where it stands, `trainer_state.optimizers[0]`.
        kind: the class, as far as its keys tell; "" where they do not.
        groups: the hyper-parameters of each group, and under `params` how many parameters it has.
    """

    name: str
    kind: str
    groups: tuple[dict[str, Any], ...]


def find_optimizers(root: Node) -> list[Optimizer]:
    """Finds the states of optimizers in a file, in its order."""
    return [
        _optimizer(name, parts) for name, parts in _mappings(root) if {"state", "param_groups"} <= {*parts}
    ]


def parameter_names(root: Node, known: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, str]:
    """The names of the parameters whose state optimizers keep, as far as the file has them.

    Args:
        root: of the file.
        known: what the manifest says: for the place of an optimizer's state, the names of each group.

    Returns:
        the name of the parameter, by the place of what is kept for it: `trainer_state.optimizers[0].state.3`.
    """
    found = {}
    for place, groups in known.items():
        for number, name in enumerate(itertools.chain.from_iterable(groups)):
            found[f"{place}.state.{number}"] = name
    for place, parts in _mappings(root):
        for group in parts["param_groups"].children if {"state", "param_groups"} <= {*parts} else ():
            values = {child.key: child.value for child in group.children}
            numbers, names = values.get("params"), values.get("param_names")  # the second since torch 2.6
            if isinstance(numbers, list) and isinstance(names, list):
                for number, name in zip(numbers, names, strict=False):
                    if isinstance(name, str):
                        found[join(place, f"state.{key_text(number)}")] = name
    return found


def _mappings(root: Node) -> Iterator[tuple[str, dict[str, Node]]]:
    pending = [("", root)]
    while pending:
        name, node = pending.pop()
        if node.kind is NodeKind.MAPPING:
            yield name, {child.key: child for child in node.children}
        inner = [child for child in node.children if child.children]
        pending.extend((join(name, child.key), child) for child in reversed(inner))


def _optimizer(name: str, parts: dict[str, Node]) -> Optimizer:
    groups = []
    for node in parts["param_groups"].children:
        values = {
            child.key: "a tensor" if child.kind is NodeKind.TENSOR else child.value
            for child in node.children
            if child.kind in (NodeKind.VALUE, NodeKind.TENSOR)
        }
        params = values.get("params")
        groups.append({**values, "params": len(params) if isinstance(params, (list, tuple)) else None})
    states = parts["state"].children
    kept = {child.key for state in states[:_ENOUGH] for child in state.children}
    return Optimizer(name, _kind(groups[0] if groups else {}, kept), tuple(groups))


_ENOUGH = 100  # parameters whose state is looked at: some have none yet


def _kind(group: dict[str, Any], kept: set[str]) -> str:
    for kind, keys in _GROUP_KEYS:
        if keys <= {*group}:
            return _adams(group) if kind == "Adam" else kind
    return next((kind for kind, keys in _STATE_KEYS if keys <= kept), "")


def _adams(group: dict[str, Any]) -> str:
    """Tells AdamW from Adam, by what torch writes since 2.7."""
    if "decoupled_weight_decay" not in group:
        return "Adam or AdamW"
    return "AdamW" if group["decoupled_weight_decay"] else "Adam"
