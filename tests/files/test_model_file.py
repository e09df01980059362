"""Model files and checkpoints are checked whole: what is damaged, missing or absurd is refused."""

import io
import json
import zipfile

import numpy as np
import pytest

from small_runs import picture, trained
from ssi_cupy import SelfSupervisedInverse
from ssi_cupy.engine.checks import FileError, InputError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(model, its file, a checkpoint of its training)."""
    folder = tmp_path_factory.mktemp("saved")
    model = trained(checkpoint=folder / "state.npz")
    model.save(folder / "model.npz")
    return model, folder / "model.npz", folder / "state.npz"


def changed(source, target, **new):
    """A copy with entries replaced, by functions of the old ones; None leaves one out."""
    with np.load(source) as npz:
        entries = dict(npz)
    for name, change in new.items():
        name = name.replace("__", ".")
        if name == "header":
            header = json.loads(str(entries["header"]))
            change(header)
            entries["header"] = np.array(json.dumps(header))
        elif change is None:
            del entries[name]
        else:
            entries[name] = np.asarray(change(entries[name]))
    np.savez(target, **entries)
    return target


def at(place, value):
    def change(array):
        array = array.copy()
        array[place] = value
        return array

    return change


def told(**new):
    return lambda header: header.update(new)


def without(part, *names):
    return lambda header: [header[part].pop(name) for name in names]


def within(part, **new):
    return lambda header: header[part].update(new)


BAD_MODELS = [
    {"parameters": at(3, np.nan)}, {"parameters": at(0, np.inf)}, {"parameters": lambda a: a[:-1]},
    {"parameters": lambda a: a.astype(int)}, {"parameters": lambda a: a[None]},
    {"parameters": None},
    {"statistics": at(0, np.nan)}, {"statistics": at(-1, -1.0)}, {"statistics": lambda a: a[:1]},
    {"statistics": None}, {"physics__mode": None}, {"physics__psf": None},
    {"physics__psf": at((0, 0, 0), np.nan)}, {"physics__method": lambda a: np.array("quick")},
    {"header": told(units=[float("nan"), 1.0])}, {"header": told(units=[0.0, 0.0])},
    {"header": told(units=[0.0, float("inf")])}, {"header": told(units=[0.0])},
    {"header": told(units=["a", "b"])}, {"header": told(units=None)},
    {"header": told(symmetries=[])}, {"header": told(symmetries=[[True, [1]]])},
    {"header": told(symmetries=3)}, {"header": told(symmetries=[[False, [2]]])},
    {"header": told(turns=[], symmetries=[])}, {"header": told(history=3)},
    {"header": told(history=[1])}, {"header": told(spacing=[0.0, 1.0])},
    {"header": told(spacing="x")}, {"header": told(net={})}, {"header": told(net=[])},
    {"header": told(net={"class": "Path"})}, {"header": told(recipe={})},
    {"header": told(recipe=None)}, {"header": told(seed=-1)}, {"header": told(seed=None)},
    {"header": told(version=2)}, {"header": told(kind="x")}, {"header": without("net", "widths")},
    {"header": within("net", momentum=float("nan"))}, {"header": within("net", widths=[10**9] * 5)},
    {"header": within("net", widths=[])}, {"header": within("net", ndim=7)},
    {"header": within("net", nobody=1)}, {"header": within("net", aspect=float("nan"))},
    {"header": within("recipe", steps=0)}, {"header": within("recipe", margin="no")},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_MODELS)))
def test_a_model_file_that_was_tampered_with(saved, tmp_path, number):
    path = changed(saved[1], tmp_path / "bad.npz", **BAD_MODELS[number])
    with pytest.raises(InputError) as caught:
        SelfSupervisedInverse.load(path)
    assert "\n" not in str(caught.value)


def test_what_is_changed_in_nothing_loads(saved, tmp_path):
    again = SelfSupervisedInverse.load(changed(saved[1], tmp_path / "same.npz"))
    assert np.array_equal(again.predict(picture()), saved[0].predict(picture()))
    assert trained(resume=changed(saved[2], tmp_path / "state.npz")).history == saved[0].history


BAD_CHECKPOINTS = [
    {"parameters": at(3, np.nan)}, {"parameters": lambda a: a[:1]}, {"parameters": None},
    {"best_parameters": lambda a: a[0]}, {"statistics": at(-1, -1.0)},
    {"best_statistics": at(0, np.inf)}, {"adam_first": at(0, np.nan)},
    {"adam_second": at(0, -1.0)}, {"adam_second": lambda a: a.astype(np.float64)},
    {"adam_steps": lambda a: a + 1}, {"adam_steps": lambda a: a * 1.0}, {"adam_steps": None},
    {"history": lambda a: a[:, :3]}, {"history": lambda a: a[:0]}, {"history": lambda a: a[::-1]},
    {"history": lambda a: np.array("x")}, {"schedule": lambda a: np.zeros(9)},
    {"best": lambda a: a[:1]}, {"best": lambda a: a * np.nan}, {"best": at(1, 10**9)},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_CHECKPOINTS)))
def test_a_checkpoint_that_was_tampered_with(saved, tmp_path, number):
    path = changed(saved[2], tmp_path / "bad.npz", **BAD_CHECKPOINTS[number])
    with pytest.raises(FileError, match="resume"):
        trained(resume=path)


def member(name, shape, descr="<f4", content=b""):
    """An archive of one array that claims to be of `shape`."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, header.getvalue() + content)
    return archive.getvalue()


@pytest.mark.parametrize("content", [
    b"", b"x", b"PK\5\6" + bytes(18), member("parameters.npy", (2**40,)),
    member("parameters.npy", (-1,)), member("parameters.npy", (2**62, 2**62)),
    member("../header.npy", (1,), content=bytes(4)), member("a\\b.npy", (1,), content=bytes(4)),
    member("/header.npy", (1,), content=bytes(4)), member("header.txt", (1,), content=bytes(4)),
    member("header.npy", (2**26,), content=bytes(2**28)), member("header.npy", (1,), "|O", b"N."),
])  # fmt: skip
def test_archives_that_claim_much_or_hold_other_things(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(FileError, match="another or damaged"):
        SelfSupervisedInverse.load(path)


def test_bits_that_flip(saved, tmp_path):
    """Any byte of a file may change: the archive's checksums notice."""
    rng, whole = np.random.default_rng(0), saved[1].read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (tmp_path / "flipped.npz").write_bytes(data)
        try:
            model = SelfSupervisedInverse.load(tmp_path / "flipped.npz")
        except InputError:
            continue
        assert np.array_equal(model.parameters, saved[0].parameters)
