"""What a sweep keeps below its results: the plans, the outputs of runs, and what command lines resolve to."""

import os
import time
from pathlib import Path

import pytest
from helpers import ROOT
from made import plan as made_plan

from lit_degrade.grids.logs import last_words, open_log
from lit_degrade.grids.resolved import keep, recall
from lit_degrade.grids.worker import Resolved
from lit_degrade.inputs import file_sha256
from lit_degrade.records import paths
from lit_degrade.records.plan import plan_folder, read_plans, write_plan
from lit_degrade.run import resolve


def written(results: Path, sweep: Path, *runs: str) -> Path:
    folder = plan_folder(results, str(sweep))
    folder.mkdir(parents=True, exist_ok=True)
    write_plan(folder, str(sweep), {run: (results / "e" / run, {"seed": 1}) for run in runs})
    return folder


def asked(results: Path) -> set[str]:
    return {run.run_id for run in read_plans(results)}


def test_plans_of_sweep_files_of_one_name_both_stand(tmp_path: Path) -> None:
    results = tmp_path / "results"
    here, there, elsewhere = (tmp_path / place / "grid.yaml" for place in ("a", "b", "c"))
    first, second, third = (written(results, file, run) for file, run in ((here, "1"), (there, "2"), (elsewhere, "3")))
    assert first == results / paths.SWEEPS / "grid"
    assert len({first, second, third}) == 3
    assert second.name.startswith("grid-")
    assert asked(results) == {"1", "2", "3"}
    assert written(results, there, "4") == second  # the same file, edited: what it asked for before is asked for no more
    assert written(results, here, "5", "1") == first
    assert asked(results) == {"1", "3", "4", "5"}
    assert not [path for path in results.rglob("*") if path.name.startswith(".plan")]


def test_a_plan_is_its_files_own_wherever_both_are_moved_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    written(folder / "results", folder / "grid.yaml", "1")
    folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert written(Path("results"), Path("grid.yaml"), "2") == Path("results/.sweeps/grid")
    assert asked(Path("results")) == {"2"}


def test_plans_of_version_0_1_and_plans_that_are_cut_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("results/.sweeps/grid")
    for text in ('{"sweep": "sweeps/grid.yaml", "runs": {}}', '{"sweep": "swe', ""):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / paths.PLAN).write_text(text)
        assert written(Path("results"), Path("sweeps/grid.yaml"), "1") == folder
    (folder / paths.PLAN).write_text('{"sweep": "other/grid.yaml", "runs": {}}')
    assert written(Path("results"), Path("sweeps/grid.yaml"), "1") != folder
    made_plan(Path("elsewhere"), "grid", [])
    assert plan_folder(Path("elsewhere"), "sweeps/grid.yaml").name == "grid"


def test_outputs_are_one_process_s_own(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    assert last_words(path) == ""
    first = open_log(path)
    os.write(first, b"first\n\n")
    second = open_log(path)
    time.sleep(0.01)
    os.write(second, b"second\nlast words \n \n")
    assert path.read_text() == "first\n\n"
    assert (tmp_path / "run.2.log").read_text().startswith("second\n")
    assert last_words(path) == "last words"
    os.close(first)
    again = open_log(path)
    assert path.read_text() == ""
    time.sleep(0.01)
    os.write(again, b"again")
    assert last_words(path) == "again"
    os.close(second)
    os.close(again)


def test_a_resolution_is_trusted_while_all_that_it_follows_from_is_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, record, kept = tmp_path / "config.yaml", tmp_path / "results/e/0123", tmp_path / "kept.json"
    line = ["fit", "--config", str(config)]
    config.write_text("a: 1")
    record.mkdir(parents=True)
    files = {str(config): "0" * 64}
    resolved = Resolved("0123", str(record), "", {"seed": 43, "lr": None}, ["results/e/45"], files)

    def trusted() -> bool:
        return tuple(line) in recall(kept, [line])

    assert not trusted()  # nothing is kept yet
    keep(kept, {tuple(line): resolved})
    assert not trusted()  # the file is another than it was
    files[str(config)] = file_sha256(config)
    keep(kept, {tuple(line): resolved, ("other",): resolved})
    assert recall(kept, [line]) == {tuple(line): resolved}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    config.write_text("a: 2")
    assert not trusted()
    config.unlink()
    assert not trusted()
    config.write_text("a: 1")
    assert trusted()
    record.rename(tmp_path / "gone")
    assert not trusted()  # it may be recorded under an earlier id
    (tmp_path / "gone").rename(record)
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        assert not trusted()
    with monkeypatch.context() as patch:
        patch.setattr("lit_degrade.grids.resolved.code_sha256", lambda: "other")
        assert not trusted()
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", "/elsewhere")
        assert not trusted()
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        (tmp_path / "other-1.0.dist-info").mkdir()
        assert not trusted()
        (tmp_path / "other-1.0.dist-info").rmdir()
    assert trusted()
    kept.write_text(kept.read_text()[:-10])
    assert not trusted()


def test_what_a_server_may_change_is_not_kept(tmp_path: Path) -> None:
    keep(tmp_path / "kept", {("fit",): Resolved("0123", str(tmp_path), files=None)})
    assert recall(tmp_path / "kept", [["fit"]]) == {}


OWN = """
from lightning.pytorch import Callback

class Own(Callback):
    pass
"""


def test_a_run_names_every_file_that_it_follows_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configs, those that these name, those of the attack before it, its text, and classes of the user's own."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    (tmp_path / "own_callback.py").write_text(OWN)
    (tmp_path / "text.txt").write_text("Some text.")
    (tmp_path / "callbacks.yaml").write_text("- class_path: own_callback.Own\n")
    (tmp_path / "config.yaml").write_text("trainer: {callbacks: callbacks.yaml}\n")
    named = ["--config", str(tmp_path / "config.yaml"), "--text.source", str(tmp_path / "text.txt")]
    attack = ["--attacked_by", "configs/priority2.yaml --trainer.max_steps 3"]
    found = resolve(["fit", "--config", "configs/healing.yaml", *attack, *named]).files
    names = {"healing.yaml", "priority2.yaml", "config.yaml", "callbacks.yaml", "own_callback.py", "text.txt"}
    assert {Path(path).name for path in found} == names
