"""Files are written whole or not at all, and whether they can be is asked before the work."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..engine.checks import FileError
from ..engine.types import PathLike


def check_writable(path: PathLike, argument: str = "path") -> Path:
    """`path` if a file can be made there: ask before hours of work, not after.

    Raises
    ------
    FileError
    """
    path = Path(path)
    if path.is_dir():
        raise FileError(argument, "the path of a file", f"the folder {str(path)!r}")
    probe = _beside(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise unwritable(path, argument, error) from None
    return path


def unwritable(path: PathLike, argument: str, error: OSError) -> FileError:
    """The `FileError` that an OSError on writing `path` stands for."""
    got = f"{str(path)!r} ({error.strerror or error})"
    return FileError(argument, "a path that can be written", got)


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """A path to write to, that takes the place of `path` when, and only when, all went well."""
    temporary = _beside(Path(path))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path):
    return path.with_name(f".{path.name[:100]}.{os.getpid()}.{threading.get_ident()}.part")
