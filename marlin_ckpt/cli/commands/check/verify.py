"""`marlin-ckpt verify`."""

from typing import Annotated

from marlin_ckpt.cli import output, problems, stopping
from marlin_ckpt.cli.options import Json, Recursive, argument, flag
from marlin_ckpt.errors import BadFileError, CheckpointNotFoundError

EXAMPLE = "Example: marlin-ckpt verify checkpoints --recursive; exits 3 when a file is corrupt."


def verify(
    paths: Annotated[list[str], argument("PATH...", "Files and directories; - is standard input.")],
    recursive: Recursive = False,
    quiet: Annotated[bool, flag("--quiet", "Print only files that are not intact.", "-q")] = False,
    strict: Annotated[bool, flag("--strict", "Fail also where a file has no checksums.")] = False,
    deep: Annotated[
        bool, flag("--deep", "Also compare what lies in a cache of the Hugging Face hub with its digests.")
    ] = False,
    json: Json = False,
) -> int:
    """Check every byte of checkpoints for damage.

    Of a directory, all checkpoints and files of weights in it are read. A file that marlin-ckpt wrote is
    intact when every byte is accounted for, and one that torch.save wrote when its checksums hold. A folder
    that is one checkpoint is verified as a whole: nothing of it is missing, each file is sound, and they fit
    together. Of checkpoints in a directory that share bytes on the disk, it says how many copies there are of
    what they share.
    """
    stopping.says(lambda: "no files were verified")
    from marlin_ckpt.cli.views import verdicts as view
    from marlin_ckpt.directory import catalog
    from marlin_ckpt.formats.verdicts import Verdict
    from marlin_ckpt.naming import EXTENSIONS
    from marlin_ckpt.operations import verify as operation
    from marlin_ckpt.operations.rescue.copies import Copies
    from marlin_ckpt.storage.local.files import STANDARD_INPUT

    named = [path for path in paths if path != STANDARD_INPUT]
    entries = catalog.named(named, EXTENSIONS, recursive=recursive)
    nothing_in = operation.nothing_in(named, entries)
    if nothing_in and not entries:
        raise nothing_in[0]
    found: list[Verdict] = []
    total = len(entries) + (len(named) < len(paths))
    stopping.says(lambda: view.so_far(found, total), lambda: view.document(found, {}, Copies({}, [])))
    with output.bytes_bar(sum(entry.size_bytes for entry in entries), quiet=quiet or json) as on_bytes:
        if len(named) < len(paths):
            found.append(operation.verify_standard_input(on_bytes))
        found.extend(operation.verify(entries, on_bytes, deep=deep))
    remedies = operation.remedies(found) if json or not quiet else {}
    copies = operation.copies(entries, found, named)
    output.result(
        json,
        lambda: view.document(found, remedies, copies),
        lambda: view.show(found, remedies, copies, quiet=quiet),
    )
    if deep and not operation.has_digest(entries):
        output.talk("hint: --deep compared nothing: none of them lies in a cache of the Hugging Face hub")
    if operation.is_bad(found, paths, strict=strict):
        return BadFileError.exit_code
    for error in nothing_in:
        problems.error(error)
    return CheckpointNotFoundError.exit_code if nothing_in else 0
