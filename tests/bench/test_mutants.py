"""The bench that puts faults into the code: where, one at a time, and what it keeps."""

import json

import pytest

from bench.trust import mutants


def test_a_mutant_changes_one_line_of_code_and_has_tests():
    found = mutants.mutants()
    assert found == mutants.mutants() and len(found) > 1000
    files = {mutant[0] for mutant in found}
    assert {"kernels/pool.cu", "ssi_cupy/ops/pool.py", "ssi_cupy/optim.py"} <= files
    for mutant in found[::37]:
        whole = (mutants.ROOT / mutant[0]).read_text()
        changed = mutants.put(whole, mutant)
        unlike = [a != b for a, b in zip(whole.split("\n"), changed.split("\n"), strict=True)]
        assert sum(unlike) == 1 and unlike.index(True) == mutant[1]
        assert all((mutants.ROOT / path).exists() for path in mutants.tests_of(mutant[0]))


def test_what_is_known_is_not_run_again(tmp_path, monkeypatch, capsys):
    ran = []

    def killed(folder, mutant, seconds):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(mutant)
        return len(ran) != 2

    monkeypatch.setattr(mutants, "killed", killed)
    monkeypatch.setattr(mutants, "pass_", lambda *_: True)
    command = ["--number", "5", "--only", "pool", "--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(KeyboardInterrupt):
        mutants.main(command)
    kept = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["killed"] for row in kept] == [True, False, True]
    monkeypatch.setattr(mutants, "killed", lambda *_: ran.append(0) or True)
    assert mutants.main(command) == 0 and ran[3:] == [0, 0]
    said = capsys.readouterr().out
    assert "4 of 5 mutants killed, 80.0 %" in said and said.count("survives: ") == 2
