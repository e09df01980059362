"""The doctor tells what there is, and its exit status whether the device works."""

import sys

import pytest

from ssi_cupy.commands import doctor
from ssi_cupy.commands.cli import main
from ssi_cupy.engine.checks import InputError
from ssi_cupy.engine.gpu import driver


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_cpu_works(device, capsys):
    assert main(["doctor", "--device", device]) == 0
    assert "cpu: works" in capsys.readouterr().out


def test_what_is_missing_is_said_and_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["doctor", "--device", "cuda"]) == 1
    printed = capsys.readouterr()
    assert "cuda: cannot be used; it needs cupy: pip install 'ssi_cupy[cuda13]'" in printed.out
    assert "the device 'cuda' cannot be used" in printed.err


def test_a_device_that_gives_wrong_numbers_does_not_work(monkeypatch):
    monkeypatch.setattr(doctor, "relu_forward", lambda x: (x, None))
    lines, works = doctor.examine("cpu")
    assert not works and any("cpu: does not work: ArithmeticError" in line for line in lines)


def test_a_device_that_is_there_and_fails_is_told(monkeypatch):
    def fails(array):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(driver, "missing", lambda: None)
    monkeypatch.setattr(driver, "described", lambda: ["a device"])
    monkeypatch.setattr(driver, "upload", fails)
    lines, works = doctor.examine("cuda")
    assert not works and "cuda: does not work: RuntimeError: out of memory" in lines


def test_an_unknown_device_is_bad_input(capsys):
    assert main(["doctor", "--device", "tpu"]) == 2
    assert "--device" in capsys.readouterr().err
    with pytest.raises(InputError, match="device"):
        doctor.examine("tpu")
