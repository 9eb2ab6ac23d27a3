"""`marlin-ckpt diff`."""

from typing import Annotated

from marlin_ckpt.cli import output, stopping
from marlin_ckpt.cli.options import Json, argument, flag, option

EXAMPLE = "Example: marlin-ckpt diff model_1.pt model_2.pt; exits 1 when something differs, as diff does."

_DIFFERENT = 1


def diff(
    before: Annotated[str, argument("A", "A file of tensors.")],
    after: Annotated[str, argument("B", "The file to compare it with.")],
    state: Annotated[
        str | None, option("--state", "NAME", "Only this state, such as module_interface_state.")
    ] = None,
    tensors: Annotated[
        str | None, option("--tensors", "PATTERN", "Only tensors whose names match, one by one: '*.bias'.")
    ] = None,
    all_: Annotated[bool, flag("--all", "List each tensor, also where nothing changed.")] = False,
    json: Json = False,
) -> int:
    """Compare two files, tensor by tensor.

    Reports which tensors and other values were added, removed, reshaped or changed. Two tensors are equal
    when all their bits are. Norms and the cosine leave out infinite values and NaN.
    """
    stopping.says(lambda: "no tensors were compared")  # before the imports, which take a while
    from marlin_ckpt.cli.views import comparison as view
    from marlin_ckpt.operations.diff import compare
    from marlin_ckpt.operations.one import opened

    paths = before, after
    done = view.Done()
    stopping.says(done.words, lambda: {"paths": paths})
    with opened(before) as a, opened(after) as b:
        found = compare(a, b, state, tensors, done.pair)
    each = all_ or tensors is not None
    output.result(
        json,
        lambda: view.document(paths, found, with_same=all_),
        lambda: view.show(paths, found, with_same=all_, each=each),
    )
    return 0 if found.is_same else _DIFFERENT
