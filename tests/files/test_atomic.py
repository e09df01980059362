"""Outputs: written whole, through links, never in the place of what is no regular file."""

import os
import socket
import stat
import threading
import time

import numpy as np
import pytest

from ssi_cupy.engine.checks import FileError, InputError
from ssi_cupy.files import atomic, model_file, tiff
from ssi_cupy.training.image_sets import find

PIXELS = np.ones((4, 5), np.float32)


def save(path):
    tiff.write(path, PIXELS)


WRITERS = [save, lambda path: model_file.write(path, "model", {}, {"a": PIXELS})]


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_no_regular_file_stays_what_it_is(tmp_path, write):
    os.mkfifo(tmp_path / "fifo")
    os.mkdir(tmp_path / "folder")
    server = socket.socket(socket.AF_UNIX)
    before = os.getcwd()
    os.chdir(tmp_path)  # the name of a socket must be short
    try:
        server.bind("socket")
    finally:
        os.chdir(before)
        server.close()
    os.symlink("fifo", tmp_path / "link")
    for name in ("fifo", "folder", "socket", "link"):
        mode = os.lstat(tmp_path / name).st_mode
        with pytest.raises(FileError, match="regular file"):
            write(tmp_path / name)
        with pytest.raises(FileError, match="regular file"):
            atomic.check_writable(tmp_path / name)
        assert os.lstat(tmp_path / name).st_mode == mode
        for read in (tiff.read, lambda p: model_file.read(p, "model")):
            with pytest.raises(FileError):  # and does not wait for somebody who writes
                read(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "folder", "link", "socket"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_link_is_followed_to_its_target(tmp_path, write):
    os.mkdir(tmp_path / "other")
    target = tmp_path / "other" / "target"
    for there in (False, True):  # no file yet, and an old one
        link = tmp_path / f"link{there}"
        link.symlink_to(target)
        if there:
            target.write_bytes(b"old")
        write(link)
        assert link.is_symlink() and stat.S_ISREG(os.lstat(target).st_mode)
        assert target.read_bytes() != b"old" and os.listdir(tmp_path / "other") == ["target"]


@pytest.mark.parametrize("write", WRITERS)
def test_paths_that_cannot_be(tmp_path, write):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (loop, tmp_path / ("n" * 300), tmp_path / "no" / "such", tmp_path / ("ä" * 200)):
        with pytest.raises(FileError) as caught:
            write(path)
        assert "\n" not in str(caught.value)
    for path in (tmp_path / ("n" * 250), tmp_path / ("ä" * 125)):  # long, but none too long
        write(path)
        assert path.exists()


@pytest.mark.parametrize("path", [True, 1, 1.5, None, b"name", "", "a\0b", ["a"]])
def test_a_path_is_a_text_or_a_path(path):
    from ssi_cupy import SelfSupervisedInverse
    from ssi_cupy.commands.apply_folder import apply

    for function in (
        tiff.read, tiff.layout, atomic.check_writable, save, find, SelfSupervisedInverse.load,
        lambda p: model_file.read(p, "model"), lambda p: apply(None, p, "out"),
        lambda p: apply(None, "in", p),
    ):  # fmt: skip
        with pytest.raises(InputError, match="a path, as str or os.PathLike"):
            function(path)
    os.fstat(1)  # still open


def test_scraps_of_killed_runs_are_cleared_away_and_no_others(tmp_path):
    target = tmp_path / "out.tif"
    mine = atomic._beside(target).name
    host, _, _ = mine.removeprefix(atomic._prefix(target)).split(".", 2)
    nobody = 2**22 + 1  # more than Linux gives to a process
    names = {
        "killed": f"{host}.{nobody}.1.part",
        "thread gone": f"{host}.{os.getpid()}.1.part",
        "old, of another machine": f"00000000.{os.getpid()}.1.part",
        "of another machine": "00000001.5.1.part",
        "at work": f"{host}.{os.getppid()}.1.part",
        "this thread's neighbour": f"{host}.{os.getpid()}.{threading.main_thread().ident}.x",
        "none of ours": "a.b.c.d",
    }
    scraps = {k: target.with_name(atomic._prefix(target) + n) for k, n in names.items()}
    elsewhere = tmp_path / "of.another\nname.tif"  # by the same run
    scraps["killed over another file"] = elsewhere.with_name(
        atomic._prefix(elsewhere) + names["killed"]
    )
    other = tmp_path / ".other.part"
    for path in (*scraps.values(), other):
        path.write_bytes(b"x")
    old = time.time() - 2 * atomic.ABANDONED
    os.utime(scraps["old, of another machine"], (old, old))
    save(target)
    kept = {k for k, path in scraps.items() if path.exists()}
    assert kept == {"of another machine", "at work", "this thread's neighbour", "none of ours"}
    assert other.exists() and target.exists()
