"""What to do where the operating system refuses a call: the hint for each of its error numbers."""

import errno

_ELSEWHERE = "or choose another path"
_HINTS = {
    errno.EACCES: f"`ls -ld` shows the permissions, as of the directories above; change them, {_ELSEWHERE}",
    errno.EPERM: f"it belongs to another user or is immutable (`ls -l`, `lsattr`); change that, {_ELSEWHERE}",
    errno.EROFS: f"its file system is mounted read-only; mount it for writing, {_ELSEWHERE}",
    errno.ENOSPC: f"`df -h` and `df -i` show what is full; remove files there, {_ELSEWHERE}",
    errno.EDQUOT: f"the disk quota is used up, which `quota` shows; remove files, {_ELSEWHERE}",
    errno.EFBIG: f"`ulimit -f` or the file system limits the size of a file; raise the limit, {_ELSEWHERE}",
    errno.ENOENT: f"`namei` shows what of the path is missing; make it, {_ELSEWHERE}",
    errno.ENOTDIR: "a file has the name of a directory on the path; choose another path",
    errno.EISDIR: f"a directory has the name; move it away, {_ELSEWHERE}",
    errno.ENAMETOOLONG: "most file systems take names of 255 bytes, and paths of 4,095; choose a shorter one",
    errno.ELOOP: f"symbolic links on the path lead in a circle, which `namei` shows; mend them, {_ELSEWHERE}",
    errno.EMFILE: "too many files are open in this process; `ulimit -n` raises the limit",
}


def hint(code: int | None) -> str:
    """What to do next where a system call on a path failed; "" where there is nothing to advise.

    Args:
        code: the number of the error; None where it is not known.
    """
    return "" if code is None else _HINTS.get(code, "")
