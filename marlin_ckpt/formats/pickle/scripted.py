"""Modules in a TorchScript archive: which attributes of theirs are parameters and buffers; nothing is run.

`data.pkl` has each module with all its attributes in one dict; the text of its class, in `code/`, names those
that belong to its state. Source: `ScriptModuleSerializer` in torch/csrc/jit/serialization/export_module.cpp
and `PythonPrintImpl::printNamedType` in python_print.cpp of torch 2.13.
"""

import re
from collections.abc import Callable
from typing import Any

from marlin_ckpt.formats.pickle.modules import Module
from marlin_ckpt.formats.pickle.stubs import Stub

_PREFIX = "__torch__"  # of the names of all classes whose code is in the archive
_PART = 32  # of the budget, for each attribute
_CLASS = (
    r"(?m)^class ([^\s():]{1,1000})\(Module\):\n"
    r"  __parameters__ = \[([^\]\n]*)\]\n(?:  __buffers__ = \[([^\]\n]*)\]\n)?"
)
_NAME = r'"([^"\\]*)"'


class ScriptedModules:
    """Makes out the modules of an archive.

    Args:
        read: the text of a file of `code/`, such as `__torch__/models.py`; "" where there is none.
    """

    def __init__(self, read: Callable[[str], str]) -> None:
        self._read = read
        self._states: dict[str, dict[str, frozenset[str]]] = {}  # by modules, then by classes in them

    def find(self, value: Any, charge: Callable[[int], None]) -> Module | None:
        """Makes out a module, as `modules.module_of` does.

        Where the text of a class is not in the archive, all attributes count.
        """
        if not self._is_module(value):
            return None
        charge(_PART * len(value.state))
        names = self._classes(value.name[0]).get(value.name[1])
        made = Module([], [])
        for key, part in value.state.items():
            is_in = names is None or (type(key) is str and key in names) or self._is_module(part)
            (made.state if is_in else made.others).append((key, part))
        return made

    def _is_module(self, value: Any) -> bool:
        if type(value) is not Stub or type(value.state) is not dict or not is_own(value.name[0]):
            return False
        classes = self._classes(value.name[0])
        return not classes or value.name[1] in classes

    def _classes(self, module: str) -> dict[str, frozenset[str]]:
        """The names of the parameters and buffers of each class of modules in a file."""
        if module not in self._states:
            text = self._read(module.replace(".", "/") + ".py")
            found = re.findall(_CLASS, text)
            self._states[module] = {one: frozenset(re.findall(_NAME, f"{a},{b}")) for one, a, b in found}
        return self._states[module]


def is_own(module: str) -> bool:
    """Whether a name is known to `torch.jit.load` alone, and nothing that Python imports, by its module."""
    return module == _PREFIX or module.startswith((f"{_PREFIX}.", "torch.jit."))
