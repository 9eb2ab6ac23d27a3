"""What leases of directories on disks and in object stores have in common.

- `holders`: who holds a lease, in its file and in messages; which runs share one in a process.
- `processes`: whether another process has died, as far as this machine can prove it.
"""
