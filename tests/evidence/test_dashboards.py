"""W&B Reports: what they say, where they ask, and that the real client saves them on the server of the tests."""

import importlib
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import made
import pytest
from loopback import Client, LoopbackServer
from PIL import Image

from lit_degrade.errors import UserError
from lit_degrade.evidence.claims.claims import shipped_designs
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.pages import wandb_report
from lit_degrade.evidence.pages.dashboards import SPEC, save_dashboards, spec_of
from lit_degrade.evidence.pages.sections import make_sections
from lit_degrade.evidence.pages.wandb_report import build_report
from lit_degrade.evidence.reading.groups import OutlierFilter
from lit_degrade.evidence.reading.runs import read_runs
from lit_degrade.records.conditions import conditions, config_key

KEY = "0123456789" * 4


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    made.placebo(folder, seeds=3, eigen_prion=0.3, random_tokens=0.2)
    return folder


@pytest.fixture(scope="module")
def section(results: Path) -> Section:
    (found,) = make_sections(read_runs([results]), shipped_designs())
    return found


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("figures") / "placebo_comparison.png"
    Image.new("RGB", (4, 4)).save(path)
    return path


def of_type(spec: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [block for block in spec["blocks"] if block["type"] == kind]


def panels(spec: dict[str, Any]) -> list[dict[str, Any]]:
    grids = of_type(spec, "panel-grid")
    return [panel for grid in grids for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]


def run_sets(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [runs for grid in of_type(spec, "panel-grid") for runs in grid["metadata"]["runSets"]]


def texts(spec: dict[str, Any]) -> str:
    return "\n".join(block["content"] for block in of_type(spec, "markdown-block"))


def without_project(spec: dict[str, Any]) -> dict[str, Any]:
    """Offline nobody knows the server's number of the project, nor perhaps its owner."""
    spec = json.loads(json.dumps(spec))
    for runs in run_sets(spec):
        runs.pop("project", None)
    return spec


def test_a_report_has_question_verdicts_runs_and_figures(section: Section, picture: Path) -> None:
    report = build_report(section, [picture], "", "lit_degrade")
    spec = spec_of(report)
    assert (report.title, report.description) == (section.design.title, section.design.question)
    assert spec["blocks"][1]["type"] == "table-of-contents"
    headings = [heading["children"][0]["text"] for heading in of_type(spec, "heading") if heading["level"] == 1]
    assert headings == ["Question", "Verdicts", "Course", "Outcomes", "Runs one by one", "Figures"]
    claims = [heading["children"][0]["text"] for heading in of_type(spec, "heading") if heading["level"] == 2]
    assert claims == [claim.says for claim in section.design.claims]
    assert "6 asked, 6 done, 0 diverged" in texts(spec)
    assert "**not tested**\n\n- no run has the outcome 'null_energy'" in texts(spec)
    (verdict,) = [v for v in section.verdicts if v.claim.name == "eigen_prion_exceeds_random_tokens"]
    words = wandb_report.verdict_words(verdict)
    assert words in texts(spec)
    assert words.startswith(f"**{verdict.answer}**\n\n- estimate [95 %]: 0.")
    assert "- runs used: eigen_prion 3 of 3, random_tokens 3 of 3" in words


def test_panels_name_their_keys_and_their_places(section: Section, picture: Path) -> None:
    found = panels(spec_of(build_report(section, [picture], "", "lit_degrade")))
    kinds = [panel["viewType"] for panel in found]
    bars, places = found[2:5], [tuple(panel["layout"].values()) for panel in found]
    assert kinds == ["Run History Line Plot"] * 2 + ["Bar Chart"] * 3 + ["Scatter Plot", "Media Browser"]
    assert [p["config"]["metrics"] for p in found[:2]] == [["probe_nats_per_token"], ["effective_rank_layer1"]]
    assert {p["config"]["xAxis"] for p in found[:2]} == {"trainer/global_step"}
    assert [p["config"]["metrics"][0] for p in bars] == section.outcomes()
    assert {p["config"]["groupBy"] for p in bars} == {"model.value.init_args.stimulus"}
    assert (found[5]["config"]["xAxis"], found[5]["config"]["yAxis"]) == (
        "summary:rank_reduction",
        "summary:log_perplexity_ratio",
    )
    assert found[6]["config"]["mediaKeys"] == ["figures/placebo_comparison"]
    assert places[2:5] == [(0, 0, 12, 8), (12, 0, 12, 8), (0, 8, 12, 8)]


def test_run_sets_are_the_experiment_in_the_groups_of_the_verdicts(section: Section, picture: Path) -> None:
    grouped, _, single, figures = run_sets(spec_of(build_report(section, [picture], "", "lit_degrade")))
    (wanted,) = grouped["filters"]["filters"]
    assert (wanted["key"], wanted["op"], wanted["value"]) == ({"section": "config", "name": "experiment"}, "=", "priority2")
    assert grouped["grouping"] == [{"section": "config", "name": "model.value.init_args.stimulus"}]
    assert "config:model.value.init_args.stimulus" in grouped["runFeed"]["columnOrder"]
    assert (single["grouping"], single["filters"]) == ([], grouped["filters"])
    assert figures["filters"]["filters"][0]["value"] == "report-priority2"


def test_bars_do_not_mix_what_differs_beside_the_factor(tmp_path: Path) -> None:
    for optimizer in ("adamw", "sgd"):
        for stimulus in ("eigen_prion", "random_tokens"):
            made.record(tmp_path, "priority3", optimizer=optimizer, stimulus=stimulus, summary=made.damage(0.2, 0.01))
    (section,) = make_sections(read_runs([tmp_path]), shipped_designs())
    spec = spec_of(build_report(section, [], "", "p"))
    assert [key["name"] for key in run_sets(spec)[0]["grouping"]] == [
        "model.value.init_args.stimulus",
        "model.value.init_args.optimizer",
    ]
    assert all("groupBy" not in panel["config"] for panel in panels(spec) if panel["viewType"] == "Bar Chart")


def test_every_condition_is_where_its_config_key_says(tmp_path: Path) -> None:
    config = made.config_of(tmp_path, "healing", stimulus="eigen_prion", gradient_clip=1.0, null_space={"products": 60})
    for name, value in conditions(config).items():
        found: Any = config
        for key in config_key(name).split("."):
            found = found[key]
        assert name == "attack" or found == value, name
    assert {config_key(name) for name in ("attack", "attack.stimulus", "attack.lr")} == {"attacked_by"}


def test_names_with_operators_and_quotes_are_filtered_for_as_they_are(tmp_path: Path) -> None:
    name = "it's <a=b> & é\\n"
    made.record(tmp_path, name, summary=made.damage(0.2, 0.01), metrics=made.trajectory(0.2, 0.01))
    (section,) = make_sections(read_runs([tmp_path]), [])
    (runs, *_) = run_sets(spec_of(build_report(section, [], "", "p")))
    assert runs["filters"]["filters"][0]["value"] == name


def test_what_has_no_runs_on_a_server_has_no_panels(section: Section) -> None:
    published = replace(section, rows=section.rows.assign(folder="/nowhere"))
    spec = spec_of(build_report(published, [], "", "p"))
    assert panels(spec) == []
    assert "runs used" in texts(spec)


def test_filtered_runs_are_named_since_panels_still_show_them(results: Path) -> None:
    (section,) = make_sections(read_runs([results]), shipped_designs(), OutlierFilter("iqr", iqr_multiplier=0.01))
    taken = list(section.rows.loc[section.rows["filtered"], "run_id"])
    assert taken
    assert f"Taken out of the verdicts by the outlier filter, but not of the panels: {', '.join(taken)}." in texts(
        spec_of(build_report(section, [], "", "p"))
    )


def test_offline_asks_nobody_and_writes_the_same_again(
    section: Section, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"offline asked {args}")

    for name, value in {"BASE_URL": "http://127.0.0.1:9", "API_KEY": KEY, "ENTITY": "someone", "PROJECT": "mine"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for owner, name in ((socket.socket, "connect"), (socket, "getaddrinfo"), (subprocess.Popen, "__init__")):
        monkeypatch.setattr(owner, name, refuse)
    figures = {"priority2": [picture, picture.with_suffix(".svg"), tmp_path / "none.png"]}
    (place,) = save_dashboards([section], figures, tmp_path, online=False)
    first = Path(place).read_text()
    assert Path(place) == tmp_path / "priority2" / SPEC
    assert json.loads(first)["project"] == "mine"
    assert len(panels(json.loads(first)["spec"])) == 7
    assert KEY not in first
    assert save_dashboards([section], figures, tmp_path, online=False) == [place]
    assert Path(place).read_text() == first


def test_an_address_that_was_kept_survives_an_offline_report(section: Section, tmp_path: Path) -> None:
    path = tmp_path / "priority2" / SPEC
    path.parent.mkdir()
    path.write_text('{"id": "Vmlldzow", "url": "there"}')
    save_dashboards([section], {}, tmp_path, online=False)
    assert json.loads(path.read_text())["url"] == "there"
    path.write_text("not JSON")
    save_dashboards([section], {}, tmp_path, online=False)
    assert "spec" in json.loads(path.read_text())


def test_what_cannot_work_is_one_line(section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", f"http://me:{KEY}@127.0.0.1:9")
    with pytest.raises(UserError, match=r"^W&B server http://127.0.0.1:9 does not answer. With WANDB_MODE=offline"):
        save_dashboards([section], {}, tmp_path, online=True)
    (tmp_path / "priority2").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written: File exists"):
        save_dashboards([section], {}, tmp_path, online=False)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    for name in ("dashboards", "wandb_report"):
        monkeypatch.delitem(sys.modules, f"lit_degrade.evidence.pages.{name}")
    with pytest.raises(UserError, match=r"pip install 'lit_degrade\[reports\]'"):
        importlib.import_module("lit_degrade.evidence.pages.dashboards")


SAVE = """
import json, os, sys
from pathlib import Path
from lit_degrade.errors import UserError
from lit_degrade.evidence.claims.claims import shipped_designs
from lit_degrade.evidence.pages.dashboards import save_dashboards
from lit_degrade.evidence.reading.runs import read_runs
from lit_degrade.evidence.pages.sections import make_sections

folder, picture, config = sys.argv[1:]
sections = make_sections(read_runs([Path(folder)]), shipped_designs())
figures, file = {"priority2": [Path(picture)]}, Path("report/priority2/wandb_report.json")
file.parent.mkdir(parents=True)
Path("report/priority2/placebo_summary.csv").write_text("treatment")
saved = [save_dashboards(sections, figures, Path("report"), online=True) for _ in range(2)]
assert saved[0] == saved[1]
assert not {"torch", "lightning"} & set(sys.modules)
print(*saved[0])

import wandb, wandb_workspaces.reports.v2 as wr
report = wr.Report.from_url(json.loads(file.read_text())["url"])
kinds = [type(block).__name__ for block in report.blocks]
assert kinds.count("PanelGrid") == 4 and report.title == "Placebo", kinds
(runs,) = next(block for block in report.blocks if isinstance(block, wr.PanelGrid)).runsets
assert runs.filters == "Config(\\"experiment\\") == 'priority2'" and runs.project == "lit_degrade", runs
settings = wandb.Settings(silent=True, console="off")
with wandb.init(project="lit_degrade", id="attack", config=json.loads(config), settings=settings):
    pass

os.environ["WANDB_PROJECT"], before = "closed", file.read_text()
try:
    save_dashboards(sections, {}, Path("report"), online=True)
except UserError as error:
    print(error)
assert file.read_text() == before
"""


def test_the_client_saves_updates_and_reads_a_report(
    server: LoopbackServer, client: Client, results: Path, section: Section, picture: Path, tmp_path: Path
) -> None:
    upsert = server.operations["upsertView"]
    server.operations["upsertView"] = lambda sent: {"upsertView": None} if sent["projectName"] == "closed" else upsert(sent)
    config = json.dumps(made.config_of(tmp_path, "priority2", stimulus="eigen_prion"))
    output = client.run(sys.executable, "-c", SAVE, str(results), str(picture), config, OMP_NUM_THREADS="1")
    ((name, report),) = server.reports.items()
    spec = json.loads(report.spec)
    address, refusal = output.splitlines()  # and nothing of the client's own
    assert address == f"{server.url}/local/lit_degrade/reports/Placebo--{name}"
    assert refusal.startswith("W&B Report of priority2 cannot be saved: ")
    assert (report.entity, report.project, report.title, report.saves) == ("local", "lit_degrade", "Placebo", 2)
    assert report.description == section.design.question
    assert {runs["project"]["entityName"] for runs in run_sets(spec)} == {"local"}

    kept = json.loads((client.folder / "report/priority2" / SPEC).read_text())
    offline = spec_of(build_report(section, [picture], "", "lit_degrade"))
    assert without_project(kept["spec"]) == without_project(offline)
    sent = [runs.pop("id") for runs in run_sets(spec)] + [panel.pop("__id__") for panel in panels(spec)]
    assert len(set(sent)) == len(sent)
    numbered = [runs.pop("id") for runs in run_sets(kept["spec"])] + [panel.pop("__id__") for panel in panels(kept["spec"])]
    assert len(numbered) == len(sent)
    assert kept["spec"] == spec
    assert client.environment["WANDB_API_KEY"] not in json.dumps(kept) + report.spec + output

    figures = server.runs["report-priority2"]
    assert figures.config == {"report_of": "priority2"}  # not one of the experiment's runs
    assert [(row["_step"], *(key for key in row if key.startswith("figures"))) for row in figures.history] == [
        (0, "figures/placebo_comparison"),
        (1, "figures/placebo_comparison"),
    ]
    uploaded = [path for name, path in figures.files.items() if name.startswith("media/images/figures/placebo_comparison")]
    assert [path.read_bytes() for path in uploaded] == [picture.read_bytes()] * 2

    (files,) = server.artifacts.values()  # saved twice, with the same files: one version
    assert (files.type, files.name, list(files.files)) == ("report", "report-priority2", ["placebo_summary.csv"])

    # the server keeps each top-level key of a run's config as {"value": ...}: what the run sets name is there
    found: Any = {key: {"value": value} for key, value in server.runs["attack"].config.items()}
    for key in run_sets(spec)[0]["grouping"][0]["name"].split("."):
        found = found[key]
    assert found == "eigen_prion"
