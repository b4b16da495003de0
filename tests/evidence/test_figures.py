"""Figures show every run, with units, in colours and markers that survive greyscale, and say what they leave out."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from lit_degrade.evidence.claims.claims import Claim, Design
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.looks import GREY, PALETTE
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.pages.figures import Drawing, compose, draw
from lit_degrade.evidence.pages.sections import make_sections
from lit_degrade.evidence.reading.groups import OutlierFilter
from lit_degrade.evidence.reading.runs import Runs
from lit_degrade.evidence.reading.words import OUTCOMES
from lit_degrade.stimuli.catalog import PROTOCOLS

CONDITIONS = ["subject", "stimulus", "protocol", "lr", "seed"]
SIZES = {"tiny-60k": 63_648, "tiny-250k": 281_152, "tiny-1m": 1_055_488}
DAMAGE = Claim("more", "More.", "log_perplexity_ratio", "welch", {"stimulus": "eigen_prion"}, {"stimulus": "random_text"})
SLOPE = Claim("grows", "Grows.", "log_perplexity_ratio", "slope", {"stimulus": "eigen_prion"}, over="n_parameters")
OUTCOMES_OF_DESIGN = ["log_perplexity_ratio", "rank_reduction"]


def design(factor: str = "stimulus", claims: list[Claim] | None = None) -> Design:
    return Design("made", "Made", "", "summary", "main", factor, OUTCOMES_OF_DESIGN, claims or [], "")


def run(folder: Path, seed: int, ratio: float, files: bool = True, **settings: Any) -> dict[str, Any]:
    """The row of a run, and the files of its record."""
    name = re.sub(r"\W", "", "".join(map(str, settings.values()))) + str(seed)
    rng = np.random.default_rng(seed)
    subject = settings.get("subject", "tiny-1m")
    path = folder / name
    if files:
        path.mkdir(parents=True)
        lines = ["step,train_nats_per_token,probe_nats_per_token,effective_rank_layer0,effective_rank_layer1"]
        lines += ["0,2.0,3.0,50,90", "1,2.1,,,", f"50,2.2,{3 + ratio / 2},50,91", f"100,,{3 + ratio},50,{92 + rng.normal()}"]
        (path / "metrics.csv").write_text("\n".join(lines))
        sigma = np.exp(-np.arange(32) / 8)
        save_file(
            {"step00000/layer01": sigma, "step00100/layer01": sigma * rng.uniform(0.9, 1.1, 32)}, path / "spectra.safetensors"
        )
    row = {"experiment": "made", "run_id": name, "state": "done", "detail": "", "folder": str(path), "seed": seed}
    row |= {"subject": subject, "n_parameters": SIZES[subject], "log_perplexity_ratio": ratio + rng.normal() / 50}
    return row | {"rank_reduction": -rng.uniform(0.01, 0.02), "rank_layer": 1} | settings


def placebo(folder: Path, seeds: int = 4, **means: float) -> pd.DataFrame:
    means = means or {"eigen_prion": 0.5, "gaussian_noise": 0.1, "random_text": 0.2}
    return pd.DataFrame([run(folder, seed, mean, stimulus=name) for name, mean in means.items() for seed in range(seeds)])


def section(table: pd.DataFrame, made: Design, rule: OutlierFilter | None = None) -> Section:
    (found,) = make_sections(Runs(table, CONDITIONS), [made], rule)
    return found


def plates(found: Section) -> dict[str, Plate]:
    return {plate.name: plate for plate in compose(found)}


def points(ax: Axes) -> list[Any]:
    """Collections of points of runs."""
    return [item for item in ax.collections if len(item.get_offsets()) and item.get_paths() and item.get_linewidth()[0] == 0.9]


def count(figure: Figure) -> list[int]:
    return [sum(len(item.get_offsets()) for item in points(ax)) for ax in figure.axes]


def texts(figure: Figure) -> str:
    figure.canvas.draw_idle()
    return "\n".join(item.get_text() for item in figure.findobj(lambda item: hasattr(item, "get_text")))


def ladder(folder: Path) -> pd.DataFrame:
    rows = [
        run(folder, seed, 0.3, stimulus=stimulus, protocol=protocol)
        for protocol in reversed(PROTOCOLS) for stimulus in ("eigen_prion", "random_text") for seed in range(2)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(
        reported_log_perplexity_ratio=table["log_perplexity_ratio"], reported_rank_change_absolute=table["rank_reduction"].abs()
    )


def sizes(folder: Path) -> pd.DataFrame:
    return pd.DataFrame([
        run(folder, seed, 0.1 * i, subject=subject, stimulus=stimulus)
        for i, subject in enumerate(SIZES) for stimulus in ("eigen_prion", "random_text") for seed in range(3)
    ])  # fmt: skip


KINDS = {
    "bars": (placebo, design("stimulus", [DAMAGE])),
    "ladder": (ladder, design("protocol")),
    "curve": (sizes, design("subject", [SLOPE])),
}


@pytest.fixture(scope="module", params=KINDS)
def each_kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plate]:
    make, made = KINDS[request.param]
    return plates(section(make(tmp_path_factory.mktemp(request.param)), made))


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> tuple[Section, Path, list[Drawing]]:
    folder = tmp_path_factory.mktemp("bars")
    found = section(placebo(folder), design("stimulus", [DAMAGE]))
    return found, folder, draw(found, folder)


def test_every_axis_has_a_label_with_its_unit(each_kind: dict[str, Plate]) -> None:
    for name, plate in each_kind.items():
        figure = plate.figure
        labels = [label for ax in figure.axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
        assert labels
        assert all(re.search(r"\[.+\]", label) for label in labels), (name, labels)
        assert any(ax.get_xlabel() for ax in figure.axes)
        assert "_" not in texts(figure)


def test_every_known_outcome_has_a_unit_and_a_share_is_in_percent() -> None:
    assert all(outcome.unit and outcome.label for outcome in OUTCOMES.values())
    assert all(outcome.scale == (100 if outcome.unit == "%" else 1) for outcome in OUTCOMES.values())
    assert "negative: rank rose" in OUTCOMES["rank_reduction"].axis


def test_every_run_is_a_point_at_its_value(tmp_path: Path) -> None:
    table = placebo(tmp_path)
    figure = plates(section(table, design()))["main"].figure
    assert count(figure) == [12, 12]
    damage, rank = figure.axes
    drawn = sorted(float(x) for item in points(damage) for x in item.get_offsets()[:, 0])
    assert drawn == pytest.approx(sorted(table["log_perplexity_ratio"]))
    percent = sorted(float(x) for item in points(rank) for x in item.get_offsets()[:, 0])
    assert percent == pytest.approx(sorted(100 * table["rank_reduction"]))


def test_curves_show_every_run_beside_its_size_fits_and_slope(tmp_path: Path) -> None:
    figure = plates(section(sizes(tmp_path), design("subject", [SLOPE])))["main"].figure
    assert count(figure) == [9, 9]
    assert all(ax.get_xscale() == "log" for ax in figure.axes)
    ratios = np.concatenate(
        [item.get_offsets()[:, 0] / size for ax in figure.axes for item, size in zip(points(ax), SIZES.values(), strict=True)]
    )
    assert ((ratios > 0.7) & (ratios < 1)).all()
    assert figure.axes[0].get_title("left").startswith("eigen prion\nslope 0.")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels[0].endswith("ΔAICc 0.0")
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["63.6k", "281k", "1.06M"]


def test_no_curve_is_called_the_best_where_runs_are_too_few_to_tell(tmp_path: Path) -> None:
    table = sizes(tmp_path)
    figure = plates(section(table[table["seed"] == 0].reset_index(drop=True), design("subject", [SLOPE])))["main"].figure
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert not any("AICc" in text.get_text() for text in legend.get_texts())


def test_a_ladder_goes_from_published_to_controlled(tmp_path: Path) -> None:
    figure = plates(section(ladder(tmp_path), design("protocol")))["main"].figure
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [name.replace("_", " ") for name in PROTOCOLS]
    assert figure.axes[0].yaxis_inverted()
    assert [ax.get_xlabel().split("[")[1] for ax in figure.axes] == ["%]", "nats/token]"]
    assert count(figure) == [32, 32]


def test_groups_differ_in_colour_and_in_marker(tmp_path: Path) -> None:
    (ax, *_) = plates(section(placebo(tmp_path), design()))["main"].figure.axes
    colours = [to_hex(item.get_edgecolor()[0]).upper() for item in points(ax)]
    assert colours == [colour.upper() for colour in PALETTE[:3]]
    assert len({item.get_paths()[0].vertices.tobytes() for item in points(ax)}) == 3


def test_lines_are_in_colours_of_the_palette(each_kind: dict[str, Plate]) -> None:
    allowed = {colour.upper() for colour in (*PALETTE, GREY)}
    for plate in each_kind.values():
        assert {to_hex(line.get_color()).upper() for ax in plate.figure.axes for line in ax.lines} <= allowed


def test_groups_stand_in_the_order_of_the_catalogue(tmp_path: Path) -> None:
    table = placebo(tmp_path, random_text=0.2, gaussian_noise=0.1, eigen_prion=0.5)
    (ax, *_) = plates(section(table, design()))["main"].figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["eigen prion", "gaussian noise", "random text"]


def test_levels_that_are_numbers_or_missing_say_of_what(tmp_path: Path) -> None:
    rows = [
        run(tmp_path, seed, 0.1, files=False, stimulus=name, lr=lr)
        for name in ("eigen_prion", "random_text") for lr in (0.01, None, 0.001) for seed in range(2)
    ]  # fmt: skip
    (ax, *_) = plates(section(pd.DataFrame(rows), design("lr")))["main"].figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["lr 0.001", "lr 0.01", "no lr"]


def test_a_ladder_has_a_figure_for_each_subject(tmp_path: Path) -> None:
    rows = [
        run(tmp_path, seed, 0.1, files=False, subject=subject, protocol=protocol)
        for subject in ("tiny-1m", "tiny-60k") for protocol in ("controlled", "published") for seed in range(2)
    ]  # fmt: skip
    made = plates(section(pd.DataFrame(rows), design("protocol")))
    assert [plate.figure.get_suptitle() for plate in made.values()] == ["tiny-60k", "tiny-1m"]
    assert [text.get_text() for text in made["main_2"].figure.axes[0].get_yticklabels()] == ["published", "controlled"]


def test_comparisons_have_a_bracket_a_corrected_p_and_an_answer(tmp_path: Path) -> None:
    found = section(placebo(tmp_path), design("stimulus", [DAMAGE]))
    main = plates(found)["main"]
    figure = main.figure
    assert found.verdicts[0].answer == "supported"
    assert "a  eigen prion > random text: p < 0.001, supported" in texts(figure)
    assert "a" in [text.get_text() for text in figure.axes[0].texts]
    assert "Holm" in main.caption


def test_more_than_three_comparisons_are_lines_without_brackets(tmp_path: Path) -> None:
    found = section(placebo(tmp_path), design("stimulus", [replace(DAMAGE, name=str(i)) for i in range(4)]))
    figure = plates(found)["main"].figure
    assert texts(figure).count("eigen prion > random text") == 4
    assert not figure.axes[0].texts


def test_diverged_and_missing_runs_are_named_and_not_drawn(tmp_path: Path) -> None:
    table = placebo(tmp_path)
    table.loc[0, ["state", "log_perplexity_ratio", "rank_reduction"]] = ["diverged", np.inf, np.nan]
    table.loc[5, ["state", "log_perplexity_ratio", "rank_reduction"]] = ["missing", np.nan, np.nan]
    made = plates(section(table, design()))
    assert count(made["main"].figure) == [10, 10]
    lost = f"1 diverged ({table['run_id'][0]}), 1 missing ({table['run_id'][5]})."
    assert f"10 of 12 runs are shown; not shown: {lost}" in made["main"].caption
    assert f"runs that diverged ({table['run_id'][0]})" in made["trajectories"].caption


def test_a_filtered_run_is_not_drawn_and_named(tmp_path: Path) -> None:
    table = placebo(tmp_path, seeds=6)
    table.loc[2, "rank_reduction"] = 0.9
    main = plates(section(table, design(), OutlierFilter("iqr")))["main"]
    assert "1 taken out by the filter (eigen_prion2)" in main.caption
    assert count(main.figure) == [17, 17]


def test_missing_and_broken_files_are_survived_and_counted(tmp_path: Path) -> None:
    table = placebo(tmp_path)
    folders = [Path(folder) for folder in table["folder"]]
    (folders[0] / "metrics.csv").unlink()
    (folders[1] / "metrics.csv").write_text("")
    (folders[2] / "metrics.csv").write_bytes(b"\xff\xfe\x00")
    (folders[3] / "metrics.csv").write_text("step,other\n0,1\n")
    (folders[4] / "spectra.safetensors").write_bytes(b"not a tensor")
    (folders[5] / "spectra.safetensors").unlink()
    save_file({"step00000/layer01": np.full(4, np.nan)}, folders[6] / "spectra.safetensors")
    save_file({"elsewhere": np.ones(4)}, folders[7] / "spectra.safetensors")
    made = plates(section(table, design()))
    assert "8 of 12 runs are shown; not shown: 4 without a readable metrics.csv (eigen_prion0, " in made["trajectories"].caption
    assert "8 of 12 runs are shown; not shown: 4 without readable spectra (gaussian_noise0, " in made["spectra"].caption


def test_without_files_there_is_the_main_figure_alone(tmp_path: Path) -> None:
    table = pd.DataFrame([run(tmp_path, seed, 0.1, files=False, stimulus=name) for name in "ab" for seed in range(3)])
    assert list(plates(section(table, design()))) == ["main"]


def test_without_values_there_is_no_figure(tmp_path: Path) -> None:
    table = pd.DataFrame([run(tmp_path, seed, 0.1, files=False, stimulus="a") for seed in range(3)])
    table = table.assign(log_perplexity_ratio=np.nan, rank_reduction=np.nan, state="failed")
    for made in (design(), design("protocol"), design("subject", [SLOPE])):
        assert draw(section(table, made), tmp_path / "out") == []


def test_published_records_give_spectra_and_no_trajectories(tmp_path: Path) -> None:
    table = pd.DataFrame([run(tmp_path, seed, 0.1, files=False, stimulus=name) for name in "ab" for seed in range(3)])
    for folder in table["folder"][:5]:
        Path(folder).mkdir()
        lines = [
            {"step": 0, "baseline_singular_values": [0.6, 0.3, 0.1]},
            {"step": 101, "post_attack_singular_values": [0.5, 0.4, 0.1]},
        ]
        (Path(folder) / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = plates(section(table, design()))
    assert list(made) == ["main", "spectra"]
    assert "5 of 6 runs are shown" in made["spectra"].caption
    ratio = made["spectra"].figure.axes[1]
    assert any(
        np.allclose(line.get_ydata(), [0.5 / 0.6, 4 / 3, 1]) for line in ratio.lines if len(np.asarray(line.get_ydata())) == 3
    )


def test_trajectories_start_at_zero_and_have_a_line_for_each_run_and_each_mean(tmp_path: Path) -> None:
    rank, loss = plates(section(placebo(tmp_path), design()))["trajectories"].figure.axes
    lines = [line for line in rank.lines if len(np.asarray(line.get_xdata())) == 3]
    assert len(lines) == 12 + 3
    assert all(np.asarray(line.get_ydata())[0] == 0 for line in lines)
    assert np.asarray(lines[0].get_ydata())[1] == pytest.approx(100 / 90)
    assert (rank.get_xlabel(), loss.get_ylabel()) == ("optimizer step [steps]", "probe loss\n[nats/token]")


def test_same_records_give_the_same_bytes(bars: tuple[Section, Path, list[Drawing]], tmp_path: Path) -> None:
    found, folder, drawings = bars
    assert draw(found, tmp_path) == drawings
    assert [drawing.name for drawing in drawings] == ["main", "trajectories", "spectra"]
    for name in (f"{drawing.name}.{kind}" for drawing in drawings for kind in ("png", "svg")):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_svg_can_be_put_into_a_page_beside_others(bars: tuple[Section, Path, list[Drawing]]) -> None:
    _, folder, drawings = bars
    ids = []
    for drawing in drawings:
        assert drawing.svg.startswith("<svg")
        assert drawing.svg == (folder / f"{drawing.name}.svg").read_text()
        own = [item.get("id") for item in ET.fromstring(drawing.svg).iter() if item.get("id")]
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', drawing.svg)
        assert {a or b for a, b in used} <= set(own)
        assert "<text" not in drawing.svg
        ids += own
    assert len(ids) == len(set(ids))


def test_values_of_very_different_sizes_get_few_ticks(tmp_path: Path) -> None:
    table = placebo(tmp_path)
    table["log_perplexity_ratio"] = [10.0 ** (i - 1) for i in range(len(table))]
    (ax, _) = plates(section(table, design()))["main"].figure.axes
    assert ax.get_xscale() == "symlog"
    assert len(ax.get_xticks()) <= 8
    assert "linear up to" in ax.get_xlabel()


def test_many_panels_go_on_to_other_figures_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows = [
        run(tmp_path, seed, 0.1, files=False, stimulus=name, lr=lr)
        for lr in range(12) for name in "abcdefgh" for seed in range(2)
    ]  # fmt: skip
    made = plates(section(pd.DataFrame(rows), design()))
    assert list(made) == ["main", "main_2", "main_3", "main_4"]
    assert [count(plate.figure) for plate in made.values()] == [[16] * 4] * 4
    assert made["main_2"].caption.startswith("(2 of 4) Log perplexity ratio and effective rank reduction by stimulus.")
    assert "128 of 192 runs are shown; not shown: 64 in panels that had no room (" in made["main"].caption
    assert all(plate.figure.get_size_inches()[1] < 9 for plate in made.values())
