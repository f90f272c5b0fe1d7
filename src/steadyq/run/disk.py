"""The only place where steadyq writes into a run folder, so that what a disk may do to a run is dealt with here.

Every call of the system goes through `do`, where tests let it fail, stop half-way or kill the process.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from steadyq.errors import InputError

TEMPORARY = ".tmp-"
"""How the name of a file begins that is not written to its end."""


class FileError(InputError):
    """A file that cannot be used: which one, and what is wrong with it. Nothing was changed."""


def do(operation: Callable[..., Any], *arguments: Any) -> Any:
    """Ask the system for one thing."""
    return operation(*arguments)


def write(path: Path, data: bytes) -> None:
    """Put a whole file on the disk, or none: there is no moment at which `path` holds a part of it.

    Raises:
        OSError: the disk is full or anything else; what was at `path` is as it was.
    """
    if not path.parent.is_dir():
        do(path.parent.mkdir, 0o777, True, True)
        _sync_folder(path.parent.parent)
    temporary = path.with_name(TEMPORARY + path.name)
    remove(temporary)  # of a writer that died; whoever put a link there does not choose where we write
    try:
        with do(open, temporary, "xb", 0) as file:
            _put(file, data)
            do(os.fsync, file.fileno())
        do(os.replace, temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(temporary)
        raise
    _sync_folder(path.parent)


class Appender:
    """A file that grows by whole pieces: one that could not be written to its end is taken back.

    Args:
        path: of the file, which must be there.
        size: the length to cut it back to.

    Raises:
        OSError: here and from its methods.
    """

    def __init__(self, path: Path, *, size: int) -> None:
        self.size, self._torn = size, True
        self._file: BinaryIO = do(open, path, "r+b", 0)
        self._cut()

    def append(self, data: bytes) -> None:
        """Add a piece; after an error the file is as long as before, or will be before the next piece."""
        if self._torn:
            self._cut()
        self._torn = True
        try:
            _put(self._file, data)
        except BaseException:
            with contextlib.suppress(OSError):
                self._cut()
            raise
        self._torn = False
        self.size += len(data)

    def sync(self) -> None:
        """Put everything on the disk."""
        do(os.fsync, self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _cut(self) -> None:
        do(os.ftruncate, self._file.fileno(), self.size)
        self._file.seek(self.size)
        self._torn = False


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    if os.path.lexists(path):
        do(os.unlink, path)


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with everything in it."""
    if path.is_dir() and not path.is_symlink():
        do(shutil.rmtree, path)
    else:
        remove(path)


def refuse_links(folder: Path) -> None:
    """InputError if there is a symbolic link in a folder, through which we could write elsewhere."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise InputError(
                f"{path} is a symbolic link, and a run folder holds none; put what it points to in its place"
            )


def sweep(folder: Path) -> None:
    """Remove what writers left that died, wherever it is in a folder; what cannot be removed is left."""
    for path in folder.rglob(TEMPORARY + "*"):
        with contextlib.suppress(OSError):
            remove(path)


def _put(file: BinaryIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[do(file.write, left) :]


def _sync_folder(folder: Path) -> None:
    """Put the names of a folder's files on the disk, where the system lets a folder be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            do(os.fsync, descriptor)
        finally:
            os.close(descriptor)
