"""The only place where steadyq writes into a run folder, so that what a disk may do to a run is dealt with here.

Every call of the system goes through `do`, where tests let it fail, stop half-way or kill the process.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from steadyq.engine.machine import memory
from steadyq.errors import InputError

TEMPORARY = ".tmp-"
"""How the name of a file begins that is not written to its end."""


LARGE = 2**28
"""Bytes of a file that are worth the question whether there is memory for them."""


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


def open_to_read(path: Path) -> BinaryIO:
    """A file of a run folder, if it is a plain one: a pipe or a device would keep us waiting, or never end.

    Raises:
        OSError: it is none, or what lies there is a link, which may lead anywhere; or anything else.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = do(os.open, path, flags)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "it is a symbolic link, and a run folder holds none", str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read(path: Path) -> bytes:
    """All of a file of a run folder; errors as of `open_to_read`, and if it is larger than the memory that is free."""
    with open_to_read(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGE and size > memory().available:
            raise OSError(errno.EFBIG, "it is larger than the memory that is free", str(path))
        data: bytes = do(file.read)
    return data


class Appender:
    """A file that grows by whole pieces, and holds nothing else even if the disk fails.

    A piece that could not be written waits in memory, with those that come after it, for the next `append` or `sync`.
    So do the pieces since the last `sync` that worked: one that fails may lose any of them, and they are written again.

    Args:
        path: of the file, which must be there.
        size: the length to cut it back to.

    Raises:
        OSError: here and from its methods.
    """

    def __init__(self, path: Path, *, size: int) -> None:
        self._safe = size  # bytes that are on the disk for good
        self._tail = bytearray()  # what comes after them
        self._written = 0  # how much of that the file has
        self._torn = True  # it may have more
        self._file: BinaryIO = do(open, path, "r+b", 0)
        self._catch_up()

    @property
    def size(self) -> int:
        """The length of the file, as soon as the disk lets it."""
        return self._safe + len(self._tail)

    def append(self, data: bytes) -> None:
        """Add a piece; it counts as given even if there is an error."""
        self._tail += data
        self._catch_up()

    def sync(self) -> None:
        """Put everything on the disk."""
        self._catch_up()
        try:
            do(os.fsync, self._file.fileno())
        except BaseException:
            self._written, self._torn = 0, True
            raise
        self._safe, self._tail, self._written = self.size, bytearray(), 0

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _catch_up(self) -> None:
        if self._torn:
            self._cut()
        if self._written < len(self._tail):
            self._torn = True
            try:
                _put(self._file, bytes(self._tail[self._written :]))
            except BaseException:
                with contextlib.suppress(OSError):
                    self._cut()
                raise
            self._written, self._torn = len(self._tail), False

    def _cut(self) -> None:
        do(os.ftruncate, self._file.fileno(), self._safe + self._written)
        self._file.seek(self._safe + self._written)
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
    """InputError if a folder holds a symbolic link, through which we could write elsewhere, or a pipe or device."""
    for path in folder.rglob("*"):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # of a run in progress
            continue
        if stat.S_ISLNK(mode):
            raise InputError(
                f"{path} is a symbolic link, and a run folder holds none; put what it points to in its place"
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{path} is a pipe or a device, and a run folder holds none; remove it")


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
