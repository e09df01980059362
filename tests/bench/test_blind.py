"""The bench of learned widths resumes, and says what was recovered."""

import json

import numpy as np
import pytest

from bench.papers import blind

pytest.importorskip("matplotlib", reason="the bench draws")


@pytest.fixture
def runs(monkeypatch):
    """Trainings that take no time: what is learned is the truth, or what it began with."""
    done = []

    def run(truth, sigma, noise, how, start, options):
        done.append((sigma, noise, how, start))
        record = {"psnr": 25.0 - 5 * abs(np.log(start)) * (how == "wrong"), "seconds": 1.0}
        if how == "learned":
            known = noise < 0.1
            found = 1.02 if known else start
            record |= {"found": found, "error": 0.07 if known else 0.4, "told": known}
        return record

    monkeypatch.setattr(blind, "run", run)
    monkeypatch.setattr(blind, "truth_of", lambda name, size: np.zeros((size, size)))
    return done


def bench(out, *more):
    options = ["--out", out, "--images", "one", "two", "--sigmas", "2", "--size", "32", *more]
    return blind.main([str(option) for option in options])


def test_it_goes_on_where_it_stopped_and_runs_again_what_has_other_settings(tmp_path, runs, capsys):
    assert bench(tmp_path, "--noises", "0.05") == 0
    assert len(runs) == 2 * (1 + 2 * len(blind.STARTS))
    assert bench(tmp_path, "--noises", "0.05", "0.1") == 0
    assert len(runs) == 4 * (1 + 2 * len(blind.STARTS))
    assert bench(tmp_path, "--noises", "0.05", "--steps", "7") == 0
    assert len(runs) == 6 * (1 + 2 * len(blind.STARTS))
    record = json.loads(next(tmp_path.glob("one.2_0.05_learned_*.json")).read_text())
    assert record["settings"]["steps"] == 7 and record["machine"] and record["date"]


def test_its_table_says_what_was_recovered_and_where_it_is_not_known(tmp_path, runs, capsys):
    bench(tmp_path, "--noises", "0.05", "0.1", "--starts", "0.6", "1.6")
    text = (tmp_path / "blind.md").read_text(encoding="utf-8")
    assert "| one | 2 | 0.05 | 0.6 → 1.02, 1.6 → 1.02 | 7% | 25.00 | 25.00 |" in text
    assert "| one | 2 | 0.1 | 0.6 → 0.60 (?), 1.6 → 1.60 (?) | 40% | 25.00 | 25.00 |" in text
    assert "Noise 0.05, 4 trainings: within 10 % 100%" in text
    assert "Noise 0.1, 4 trainings: within 10 % 0%, within two standard errors 100%" in text
    for name in ("blind_figure_4.png", "blind_widths.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_an_image_that_is_not_there_is_named(tmp_path, capsys):
    assert blind.main(["--out", str(tmp_path), "--images", "nothing_like_it"]) == 2
    assert "blind: --images: expected one file at least" in capsys.readouterr().err
