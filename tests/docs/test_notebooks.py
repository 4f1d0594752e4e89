import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.processes import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def executed() -> dict[str, list[NotebookNode]]:
    """Run the cells of every notebook, all in one kernel: to start one takes longer than they."""
    notebooks = {name: nbformat.read(FOLDER / name, as_version=4) for name in NAMES}
    together = nbformat.v4.new_notebook(
        cells=[cell for notebook in notebooks.values() for cell in notebook.cells]
    )
    NotebookClient(together, timeout=120, kernel_name="python3").execute()
    cells = iter(together.cells)
    return {name: [next(cells) for _ in one.cells] for name, one in notebooks.items()}


def text(cell: NotebookNode) -> str:
    parts = cell.get("outputs", [])
    return "".join(part.get("text") or part.get("data", {}).get("text/plain", "") for part in parts)


def numbers(words: str) -> Iterator[float]:
    return (float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\.?\d*", words))


def test_the_lecture_has_the_figures_that_it_shows(
    executed: dict[str, list[NotebookNode]],
) -> None:
    committed = nbformat.read(FOLDER / "lecture.ipynb", as_version=4).cells
    for shown, run in zip(committed, executed["lecture.ipynb"], strict=True):
        assert list(numbers(text(run))) == pytest.approx(
            list(numbers(text(shown))), rel=0.03, abs=0.02
        )


def test_a_network_of_ones_own_is_mended_and_served_and_not_made_to_say_one_thing(
    executed: dict[str, list[NotebookNode]],
) -> None:
    lines = "".join(map(text, executed["own_model.ipynb"])).splitlines()
    for what, least in (("right", 0), ("one answer over 4x4 shifts", 20)):
        before, after, served = (list(numbers(one))[-1] for one in lines if one.startswith(what))
        assert after > before + least
        assert served == pytest.approx(after, abs=1)  # of 100 pictures
    (difference,) = (list(numbers(one))[-1] for one in lines if one.startswith("largest"))
    assert difference < 1e-3
    assert "the server ended with 0" in lines


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_small_and_as_it_ran(name: str) -> None:
    path: Path = FOLDER / name
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert path.stat().st_size < 100_000
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(part.output_type != "error" for cell in cells for part in cell.outputs)
