"""The file system of a directory: what it is, with which options it is mounted, and what is free there.

The space of a file that was replaced is free once its last descriptor is closed. Of a gigabyte that takes as
long as writing a tenth of it, and so a thread does it behind the save. Nothing depends on it: where the
process is killed, the kernel closes the descriptor; after a power loss the file system frees what has no
name.
"""

import contextlib
import os
import threading
from typing import NamedTuple

from marlin_ckpt.storage.local.files import close_quietly

_LARGE_BYTES = 64 << 20  # of a file; below this a thread takes longer than giving the space back
# What changes how saves fare, or how fast they are. Nothing else is reported: an address, a path, an owner.
# Of an option with a value the part before `=` counts.
_TELLING = {
    "ro", "rw", "sync", "async", "dirsync", "lazytime", "discard", "dax",
    "barrier", "nobarrier", "data", "commit", "delalloc", "nodelalloc",  # ext4
    "auto_da_alloc", "noauto_da_alloc", "journal_checksum", "journal_async_commit", "nojournal_checksum",
    "logbufs", "logbsize", "wsync",  # XFS
    "compress", "compress-force", "datacow", "nodatacow", "datasum", "nodatasum", "flushoncommit",  # Btrfs
    "size", "nr_inodes", "huge",  # tmpfs
    "redirect_dir", "index", "metacopy", "volatile", "xino",  # overlay
    "vers", "nfsvers", "proto", "soft", "softerr", "softreval", "hard", "timeo", "retrans",  # NFS
    "rsize", "wsize", "lock", "nolock", "local_lock", "ac", "noac", "actimeo", "acregmin", "acregmax",
    "acdirmin", "acdirmax", "lookupcache", "cto", "nocto", "nconnect",
    "flock", "noflock", "localflock", "lazystatfs",  # Lustre
    "cache", "nobrl", "mfsymlinks", "serverino", "noserverino",  # SMB, 9p
    "max_read", "blksize", "writeback_cache",  # FUSE
}  # fmt: skip
_NETWORK = {
    "nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "lustre", "ceph", "gpfs", "beegfs", "wekafs", "afs",
    "pvfs2", "orangefs", "glusterfs", "panfs", "ncpfs", "coda",
    "ocfs2", "gfs2",  # which share a disk between machines
}  # fmt: skip
_NETWORK_BY_FUSE = {
    "sshfs", "glusterfs", "ceph", "ceph-fuse", "s3fs", "gcsfuse", "goofys", "mountpoint-s3", "rclone",
    "juicefs", "JuiceFS", "moosefs", "mfs", "seaweedfs", "blobfuse", "blobfuse2", "alluxio", "davfs",
    "curlftpfs", "cvmfs", "beegfs", "hdfs", "fuse_dfs",
}  # fmt: skip

_giving_back: list[threading.Thread] = []


class Mount(NamedTuple):
    """A mounted file system.

    Attributes:
        file_system: its type, as the kernel names it: `ext4`, `nfs4`, `fuse.sshfs`; "" where not known.
        options: those that matter to saves, sorted: `data=ordered`, `rw`.
        is_network: whether other machines may see the same files; None where it cannot be known, as of a FUSE
            file system with a name that is not known.
    """

    file_system: str = ""
    options: tuple[str, ...] = ()
    is_network: bool | None = None


def mount_of(fd: int) -> Mount:
    """The mount of an open file or directory; one that is not known where /proc is not mounted."""
    try:
        mount_id = _number_of_mount(_read(f"/proc/self/fdinfo/{fd}"))
        return parse(_read("/proc/self/mountinfo"), mount_id)
    except OSError:
        return Mount()


def free_bytes_of(found: os.statvfs_result) -> int:
    """What an unprivileged process may still write: less than what is free, part of which is root's."""
    return found.f_bavail * found.f_frsize


def free_bytes(where: str | int) -> int | None:
    """What an unprivileged process may still write somewhere; None where the file system does not say.

    Args:
        where: a directory, or its descriptor.
    """
    try:
        return free_bytes_of(os.statvfs(where))
    except OSError:
        return None


def give_back(fd: int) -> None:
    """Closes a descriptor through which nothing was written; that of a large file without a name later."""
    try:
        found = os.fstat(fd)
    except OSError:  # a network file system knows it no more; what has replaced it is stored
        found = None
    if found is None or found.st_nlink or found.st_size < _LARGE_BYTES:
        close_quietly(fd)
        return
    thread = threading.Thread(target=close_quietly, args=(fd,), name="marlin-ckpt freeing")
    try:
        thread.start()
    except RuntimeError:  # there is no room for one, or the interpreter is about to end
        close_quietly(fd)
        return
    _giving_back.append(thread)


def wait_until_given_back() -> None:
    """Waits until all that `give_back` was called for is free, which the next file may need."""
    for thread in [*_giving_back]:
        thread.join()
        with contextlib.suppress(ValueError):  # another thread has waited for it, too
            _giving_back.remove(thread)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _number_of_mount(fdinfo: str) -> str:
    """The number of the mount that the kernel says a descriptor belongs to (proc_pid_fdinfo(5))."""
    lines = (line.partition(":") for line in fdinfo.splitlines())
    return next((value.strip() for name, _, value in lines if name == "mnt_id"), "")


def parse(mountinfo: str, mount_id: str) -> Mount:
    """Finds a mount in the table of mounts.

    Args:
        mountinfo: the table, as in proc_pid_mountinfo(5).
        mount_id: the number of the mount.
    """
    for line in mountinfo.splitlines():
        fields, _, of_file_system = line.partition(" - ")
        found, rest = fields.split(" "), of_file_system.split(" ")
        if found[0] == mount_id and len(rest) > 2:  # noqa: PLR2004 - type, source and options
            options = {*found[5].split(","), *rest[2].split(",")}
            if "ro" in options:  # of the mount or of the file system: nothing can be written either way
                options.discard("rw")
            telling = sorted(one for one in options if one.partition("=")[0] in _TELLING)
            return Mount(rest[0], tuple(telling), _is_network(rest[0]))
    return Mount()


def _is_network(file_system: str) -> bool | None:
    name, _, implementation = file_system.partition(".")
    if name != "fuse":
        return name in _NETWORK
    return True if implementation in _NETWORK_BY_FUSE else None
