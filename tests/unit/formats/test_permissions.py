"""Which names a pickle may import, what loads those that it may not, and which optimizer it is of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.content.optimizers import find_optimizers
from marlin_ckpt.formats.pickle import permissions
from marlin_ckpt.formats.pickle.permissions import Permission, permission
from marlin_ckpt.storage.local.files import open_source


def test_the_names_that_are_allowed_are_those_of_the_installed_torch():
    from torch._weights_only_unpickler import _blocklisted_modules, _get_allowed_globals

    assert set(_get_allowed_globals()) == permissions.ALLOWED
    assert set(_blocklisted_modules) == permissions.BLOCKED_MODULES
    for name in ("os.system", "builtins.eval", "builtins.getattr", "subprocess.Popen", "sys.exit"):
        assert permission(name) is Permission.DANGEROUS
    for name in ("argparse.Namespace", "builtins.dict", "numpy.dtype", "osmium.x"):
        assert permission(name) is Permission.REFUSED


def test_names_of_python_2_and_of_numpy_1_are_told_as_what_loads_them(tmp_path):
    assert permissions.python_3_name("__builtin__", "set") == ("builtins", "set")
    assert permissions.python_3_name("copy_reg", "_reconstructor") == ("copyreg", "_reconstructor")
    code = permissions.loading_code("a'b", ["numpy.core.multiarray.scalar", "numpy.dtype"], ["f8"])
    allowed = '(numpy._core.multiarray.scalar, "numpy.core.multiarray.scalar"), numpy.dtype, '
    allowed += 'type(numpy.dtype("f8"))'
    assert code == (
        "import numpy, numpy._core.multiarray, torch",
        f'with torch.serialization.safe_globals([{allowed}]): state = torch.load("a\'b")',
    )
    assert permissions.loading_code("a", ["a b.c", "x.y"]) == ()


def optimizers() -> list[type[torch.optim.Optimizer]]:
    every = [one for one in vars(torch.optim).values() if isinstance(one, type)]
    return [
        one for one in every if issubclass(one, torch.optim.Optimizer) and one is not torch.optim.Optimizer
    ]


@pytest.mark.parametrize("kind", optimizers(), ids=lambda kind: kind.__name__)
def test_each_optimizer_of_torch_is_known_by_its_keys(kind, tmp_path):
    torch.save({"of": kind([nn.Parameter(torch.ones(3, 3))]).state_dict()}, tmp_path / "a.pt")
    with open_source(str(tmp_path / "a.pt")) as source:
        (found,) = find_optimizers(read_contents(source).root)
    assert (found.name, found.kind, found.groups[0]["params"]) == ("of", kind.__name__, 1)
