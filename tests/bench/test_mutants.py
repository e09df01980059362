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
        assert all((mutants.ROOT / tests[0]).exists() for tests in mutants.stages(mutant[0]))


def test_what_is_known_is_not_run_again(tmp_path, monkeypatch, capsys):
    ran = []

    def killer(folder, mutant, seconds, likely):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append((mutant, likely))
        return "" if len(ran) == 2 else f"a test {len(ran)}"

    monkeypatch.setattr(mutants, "copied", lambda folder: None)
    monkeypatch.setattr(mutants, "killer", killer)
    monkeypatch.setattr(mutants, "warm", lambda *_: "")
    command = ["--number", "5", "--only", "pool.py", "--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(KeyboardInterrupt):
        mutants.main(command)
    kept = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["by"] for row in kept] == ["a test 1", "", "a test 3"]
    assert [likely for _, likely in ran] == [[], ["a test 1"], ["a test 1"]]  # who killed is asked
    assert mutants.main([*command, "--minutes", "0"]) == 0 and len(ran) == 3
    said = capsys.readouterr().out
    assert "2 of 3 mutants killed, 66.7 %" in said and "2 more to come" in said
    monkeypatch.setattr(mutants, "killer", lambda *_: ran.append(0) or "a test")
    assert mutants.main(command) == 0 and ran[3:] == [0, 0]
    said = capsys.readouterr().out
    assert "4 of 5 mutants killed, 80.0 %" in said and said.count("survives: ") == 1


SOURCE = "def larger(a, b):\n    return a if a > b else b\n"
TEST = "from {0} import larger\n\ndef test_larger():\n    assert larger(1, 2) == {1}\n"


def test_a_mutant_is_put_in_tested_and_taken_out(tmp_path, monkeypatch):
    (tmp_path / "code.py").write_text(SOURCE)
    (tmp_path / "test_code.py").write_text(TEST.format("code", 2))
    monkeypatch.setattr(mutants, "stages", lambda name: [["test_code.py"]])
    alike = ("code.py", 1, 17, " > ", " >= ")
    other = ("code.py", 1, 17, " > ", " < ")
    assert mutants.killer(tmp_path, alike, 60) == ""
    assert mutants.killer(tmp_path, other, 60) == "test_code.py::test_larger"
    assert mutants.killer(tmp_path, other, 60, ["test_code.py::test_larger"]).endswith("larger")
    assert (tmp_path / "code.py").read_text() == SOURCE
    (tmp_path / "test_code.py").write_text("def test_larger():\n    while True:\n        pass\n")
    assert mutants.failing(tmp_path, ["test_code.py"], 2) == "test_code.py (exit -24)"
