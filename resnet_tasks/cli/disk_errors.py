"""Errors of the disk whose cause the user can fix."""

from __future__ import annotations

import errno

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Error numbers of a disk that cannot be written to; the user can fix the cause."""
CLOSED = (
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR),
    errno.ELOOP,
)
"""Error numbers of files that may not or cannot be opened; the user can fix the cause too."""


def describe_disk_error(error: OSError) -> str:
    """Describe an error of the disk in one sentence.

    Raises:
        OSError: The same error, if the user cannot fix its cause.
    """
    location = f": {error.filename}" if error.filename else ""
    if error.errno in DISK:
        return (
            f"a file cannot be written ({error.strerror}){location}; free disk space and run the "
            "command again"
        )
    if error.errno in CLOSED and location:
        return (
            f"a file cannot be opened ({error.strerror}){location}; fix its path or its permissions"
        )
    raise error
