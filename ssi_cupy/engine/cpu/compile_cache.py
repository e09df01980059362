"""numba's cache on disk, sealed: what is damaged is noticed, thrown away and compiled anew.

numba unpickles what it finds. A file that was cut off stops every later run with an error of the
pickle's or of LLVM's, and a bit that flipped in machine code is executed. So each file ends in a
checksum here, and has a name that numba's own have not. That a cache cannot be written, or no
longer, costs the next process its compiling and this one nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import pickle

log = logging.getLogger("ssi_cupy")
SEAL = 16  # bytes


def seal(cache):
    """Make a numba `FunctionCache` a sealed one."""
    file = cache._cache_file
    base = file._index_name.removesuffix(".nbi")
    cache._cache_file = _file_class()(file._cache_path, f"{base}.sealed", file._source_stamp)
    cache.load_overload = functools.partial(_load, cache)
    cache.save_overload = functools.partial(_save, cache)


def _load(cache, signature, context):
    try:
        return type(cache).load_overload(cache, signature, context)
    except Exception as error:  # bytes of any kind fail to be code in any way
        say_once("damaged", "the compiled loops in %s are damaged (%s): they are compiled anew",
                 cache._cache_path, f"{type(error).__name__}: {error}"[:200])  # fmt: skip
        cache._cache_file.throw_away()
        return None


def _save(cache, signature, data):
    try:
        type(cache).save_overload(cache, signature, data)
    except OSError as error:
        say_no_cache(f"{error.filename or cache._cache_path}: {error.strerror or error}")


def say_no_cache(error):
    """Say once what it costs that nothing can be kept."""
    say_once(
        "none", "compiled loops cannot be kept (%s): every new process compiles them again, for "
        "about half a minute; set NUMBA_CACHE_DIR to a folder that can be written to avoid that",
        error,
    )  # fmt: skip


def say_once(what, *message):
    if what not in _said:
        log.warning(*message)
    _said.setdefault(what, []).append(message)


_said = {}  # each loop has an error of its own


def _sealed(content):
    return content + hashlib.blake2b(content, digest_size=SEAL).digest()


def _opened(content):
    if _sealed(content[:-SEAL]) != content:
        raise ValueError("a file that is not as it was written")
    return pickle.loads(content[:-SEAL])


@functools.cache
def _file_class():
    from numba.core.caching import IndexDataCacheFile

    class SealedCacheFile(IndexDataCacheFile):
        def _load_index(self):
            try:
                with open(self._index_path, "rb") as file:
                    version, rest = _opened(file.read())
            except FileNotFoundError:
                return {}
            if version != self._version:  # of numba, which need not be able to read the rest
                return {}
            stamp, overloads = pickle.loads(rest)
            return overloads if stamp == self._source_stamp else {}

        def _save_index(self, overloads):
            rest = self._dump((self._source_stamp, overloads))
            self._write(self._index_path, pickle.dumps((self._version, rest)))

        def _load_data(self, name):
            with open(self._data_path(name), "rb") as file:
                return _opened(file.read())

        def _save_data(self, name, data):
            self._write(self._data_path(name), self._dump(data))

        def _write(self, path, content):
            with self._open_for_write(path) as file:
                file.write(_sealed(content))

        def throw_away(self):
            with contextlib.suppress(OSError):
                os.unlink(self._index_path)

    return SealedCacheFile
