import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import page, plots, results, tables
from benchmarks.results import Fact, Results, Spread
from benchmarks.targets import Verdict, verdicts

NETWORK = "fashion_blur"
CASE = f"{NETWORK}, 16"
CPU = "1, 16, 64 in flight: CPU an image / (bare + echo)"
LATENCY = "1 in flight: p50 - bare p50 - echo p50, us"


def add_server(to: Results, server: str, cpu_us: float, p50_us: float, number: int) -> None:
    for calls in (1, 4, 16, 64):
        of: dict[str, Fact] = {
            "experiment": "servers", "model": NETWORK, "server": server, "load": "closed",
            "payload": "tensor", "batch": 1, "concurrency": calls, "round": number,
        }  # fmt: skip
        figures = dict.fromkeys(("images_s", "p95_us", "p99_us", "p999_us", "peak_mb"), 100.0)
        figures |= {"cpu_us": cpu_us, "p50_us": p50_us, "client_cpu_us": 30.0}
        to.add(of, {**figures, "quantiles_us": [p50_us + at for at in range(17)]})


@pytest.fixture
def measured() -> Results:
    """Three rounds by hand: bare onnxruntime 100 us, the echo 150, Nyquist 275, 250 and 350."""
    found = Results({"cpu": "by hand", "packages": {"onnxruntime": "1"}})
    for number, own in enumerate((275.0, 250.0, 350.0), start=1):
        for batch, cpu_us in ((1, 120.0), (16, 100.0)):
            of: dict[str, Fact] = {
                "experiment": "bare", "model": NETWORK, "setting": "1x1", "batch": batch,
            }  # fmt: skip
            figures = {"images_s": 1e6 / cpu_us, "cpu_us": cpu_us, "p50_us": batch * cpu_us}
            found.add({**of, "round": number}, figures)
        add_server(found, "echo", 150.0, 80.0, number)
        add_server(found, "nyquist", own, 300.0, number)
        for value, p50_us in ((1, 300.0), (100, 310.0)):
            of = {"experiment": "models loaded", "value": value, "concurrency": 1, "round": number}
            names = ("images_s", "p95_us", "p99_us", "p999_us", "peak_mb", "cpu_us")
            figures = dict.fromkeys((*names, "client_cpu_us"), 100.0)
            found.add(of, {**figures, "p50_us": p50_us})
    return found


def verdict(found: Results, target: str, case: str) -> Verdict:
    (one,) = [v for v in verdicts(found) if (v.target.text, v.case) == (target, case)]
    return one


def test_a_target_is_the_median_of_the_ratios_of_each_round(measured: Results) -> None:
    one = verdict(measured, CPU, CASE)
    assert one.value == Spread(275 / 250, 250 / 250, 350 / 250)
    assert one.word == "met"


def test_a_median_beyond_the_limit_is_missed_whatever_the_best_round(measured: Results) -> None:
    add_server(measured, "nyquist", 360.0, 300.0, 1)
    assert verdict(measured, CPU, CASE).word == "missed"


def test_latency_is_what_is_left_of_it_without_onnxruntime_and_the_transport(
    measured: Results,
) -> None:
    assert verdict(measured, LATENCY, NETWORK).value == Spread(100.0, 100.0, 100.0)


def test_a_target_that_nothing_was_measured_for_says_so(measured: Results) -> None:
    one = verdict(measured, "16 in flight: images/s / a peer's, fashion", "")
    assert (one.value, one.word) == (None, "not measured")


def test_results_come_back_from_their_file_as_they_were(measured: Results, tmp_path: Path) -> None:
    measured.missing["mlserver"] = "cannot be installed"
    measured.save(tmp_path / "folder" / "results.json")
    assert results.read(tmp_path / "folder" / "results.json") == measured
    assert len([*(tmp_path / "folder").iterdir()]) == 1


def test_a_file_of_another_format_is_refused_with_both(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match="format 7, expected 1"):
        results.read(tmp_path / "results.json")


def test_measured_already_means_the_same_facts_and_no_others(measured: Results) -> None:
    of = measured.rows[0].of
    assert measured.has(**of)
    assert not measured.has(**{**of, "round": 4})
    assert not measured.has(experiment="bare")


def test_the_tables_fit_a_terminal_of_80_columns_and_are_coloured_by_the_verdict(
    measured: Results,
) -> None:
    measured.missing["mlserver"] = "cannot be installed"
    text = io.StringIO()
    tables.show(measured, Console(file=text, width=80))
    said = text.getvalue()
    assert max(map(len, said.splitlines())) <= 80
    for words in ("1.10 (1.00-1.40)", "3 of 3", "100", "275 ±18%", "cannot be installed"):
        assert words in said


def test_the_page_keeps_its_words_and_gets_new_tables(measured: Results) -> None:
    text = (
        "before\n<!-- table targets -->\nold\n<!-- end -->\nbetween\n"
        "<!-- table payloads -->\n<!-- end -->\n"
    )
    filled = page.filled(text, measured)
    assert filled.startswith(
        "before\n<!-- table targets -->\n\n| target, and its worst case | limit |"
    )
    assert "1.10 (1.00-1.40)" in filled
    assert "old" not in filled
    assert filled.endswith("<!-- table payloads -->\n\nNothing was measured.\n\n<!-- end -->\n")
    assert page.filled(filled, measured) == filled


def test_the_memory_of_a_load_is_not_what_an_earlier_round_took_with_another(
    measured: Results,
) -> None:
    measured.rows[:] = [
        replace(row, figures={**row.figures, "peak_mb": 247.0 if row.of["round"] == 1 else 400.0})
        for row in measured.rows
    ]
    (sheet,) = (one for one in tables.sheets(measured) if one.name == "servers")
    assert {row[-1] for row in sheet.rows if row[1] == "nyquist"} == {"247"}


def test_every_plot_is_drawn_the_same_each_time(measured: Results, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        plots.draw(measured, tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["cpu.svg", "growth.svg", "latency.svg", "throughput_latency.svg"]
    for name in names:
        drawn = (tmp_path / "a" / name).read_bytes()
        assert drawn == (tmp_path / "b" / name).read_bytes()
        assert b"<svg" in drawn


def test_a_run_without_growth_leaves_the_plot_of_an_earlier_one(
    measured: Results, tmp_path: Path
) -> None:
    (tmp_path / "growth.svg").write_text("earlier")
    measured.rows[:] = [row for row in measured.rows if row.of["experiment"] != "models loaded"]
    plots.draw(measured, tmp_path)
    assert (tmp_path / "growth.svg").read_text() == "earlier"
