"""Files are written whole or not at all, and whether they can be is asked before the work."""

from __future__ import annotations

import os
import re
import socket
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..engine.checks import FileError, path_like
from ..engine.types import PathLike

ABANDONED = 24 * 3600  # seconds without a byte after which a scrap of any machine is nobody's
KINDS = {
    stat.S_IFIFO: "the FIFO", stat.S_IFCHR: "the device", stat.S_IFBLK: "the device",
    stat.S_IFSOCK: "the socket", stat.S_IFDIR: "the folder",
}  # fmt: skip


def check_writable(path: PathLike, argument: str = "path") -> Path:
    """`path` if a file can be made there: ask before hours of work, not after.

    Raises
    ------
    FileError
        Also where something lies there that is no regular file: a folder, a device, a FIFO.
    """
    target = _target(path, argument)
    probe = _beside(target)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise unwritable(path, argument, error) from None
    return Path(path)


def unwritable(path: PathLike, argument: str, error: OSError) -> FileError:
    """The `FileError` that an OSError on writing `path` stands for."""
    got = f"{str(path)!r} ({error.strerror or error})"
    return FileError(argument, "a path that can be written", got)


@contextmanager
def replacing(path: PathLike, argument: str = "path") -> Iterator[Path]:
    """A path to write to, that takes the place of `path` when, and only when, all went well.

    Where `path` is a symbolic link, that of the file which it leads to.
    """
    target = _target(path, argument)
    _sweep(target.parent)
    temporary = _beside(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def same_file(one: PathLike, other: PathLike) -> bool:
    """Whether two paths are one file: by name, through links, or as two names of one."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def _target(path, argument):
    """What `path` leads to, through all links: a regular file, or a name that is free."""
    target = Path(os.path.realpath(path_like(path, argument)))
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return target
    except OSError as error:  # a name that is too long, links in a circle
        raise unwritable(path, argument, error) from None
    if kind != stat.S_IFREG:
        got = f"{KINDS.get(kind, 'something else')} {str(path)!r}"
        raise FileError(argument, "the path of a regular file, or of none yet", got)
    return target


def _prefix(target):
    name = target.name  # in bytes a name is up to four times as long
    return f".{name[:24]}.{zlib.crc32(os.fsencode(name)):08x}."


def _host():
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _beside(target):
    mine = f"{_host()}.{os.getpid()}.{threading.get_ident()}.part"
    return target.with_name(_prefix(target) + mine)


SCRAP = re.compile(r"\..{1,24}\.[0-9a-f]{8}\.([0-9a-f]{8})\.(\d+)\.(\d+)\.part", re.DOTALL)


def _sweep(folder):
    """Remove what runs that were killed left in a folder."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        found = SCRAP.fullmatch(name) if name.endswith(".part") else None
        try:
            if found and _abandoned(folder / name, *found.groups()):
                os.unlink(folder / name)
        except OSError:
            continue  # somebody else was quicker


def _abandoned(scrap, host, process, thread):
    if time.time() - scrap.stat().st_mtime > ABANDONED:
        return True
    if host != _host():
        return False
    if int(process) == os.getpid():
        return int(thread) not in {t.ident for t in threading.enumerate()}
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
