"""nyquist diff: what changed between two versions of a model."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from nyquist.export.diff import CANNOT_TELL, DIFFERENT, SAME, main
from nyquist.server.artifact.manifest import LABELS_FILE, MANIFEST_FILE, MODEL_FILE, REFERENCE_FILE

NAME = "fashion_blur"
Edit = Callable[[Path], None]


@pytest.fixture
def versions(repository: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function that makes version 2 by edits, and gives the arguments that compare."""

    def make(*edits: Edit, **manifest_fields: Any) -> list[str]:
        folder = tmp_path / NAME
        (newest,) = sorted((repository / NAME).glob("[0-9]*"))[-1:]
        shutil.copytree(newest, folder / "1")
        shutil.copytree(newest, folder / "2")
        for file in ("config.pbtxt", LABELS_FILE):
            shutil.copy(repository / NAME / file, folder / file)
        for edit in edits:
            edit(folder / "2")
        for number in (1, 2):
            seal(folder / str(number), int(newest.name), manifest_fields if number == 2 else {})
        return [NAME, "1", "2", "--output", str(tmp_path)]

    return make


def seal(folder: Path, built_as: int, fields: dict[str, Any]) -> None:
    """Give a version its number and the checksums of its files."""
    content = json.loads((folder / MANIFEST_FILE).read_text())
    content["version"] = int(folder.name)
    content["files"] = {
        path.replace(f"{built_as}/", f"{folder.name}/", 1): digest
        for path, digest in content["files"].items()
    }
    for path in content["files"]:
        file = folder.parent / path
        content["files"][path] = sha256(file.read_bytes()).hexdigest()
    for field, value in fields.items():
        part, _, name = field.partition("__")
        content[part][name] = value
    (folder / MANIFEST_FILE).write_text(json.dumps(content))


def nudge(folder: Path) -> None:
    """Add a quarter to one element of one weight."""
    weights = load_file(folder / REFERENCE_FILE)
    weights["classifier.bias"][3] += 0.25
    save_file(weights, folder / REFERENCE_FILE)


def rename_tensor(folder: Path) -> None:
    """Give one tensor another name and shape."""
    weights = load_file(folder / REFERENCE_FILE)
    weights["head.bias"] = np.concatenate([weights.pop("classifier.bias"), np.zeros(1, np.float32)])
    save_file(weights, folder / REFERENCE_FILE)


def relabel(folder: Path) -> None:
    """Call the second class a jumper."""
    path = folder / LABELS_FILE
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "jumper", *lines[2:]]) + "\n")


def add_node(folder: Path) -> None:
    """Add an Identity that nothing reads."""
    model = onnx.load(str(folder / MODEL_FILE))
    model.graph.node.append(onnx.helper.make_node("Identity", ["image"], ["unread"]))
    onnx.save(model, str(folder / MODEL_FILE))


def changes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    main([*arguments, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert (document["name"], document["old"], document["new"]) == (NAME, 1, 2)
    return {f"{change['topic']}: {change['what']}": change for change in document["changes"]}


def test_versions_of_the_same_content_are_the_same(
    versions: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(versions()) == SAME
    assert capsys.readouterr().out == f"{NAME}: version 1 -> 2: nothing changed\n"


def test_a_weight_that_changed_is_named_with_its_largest_change(
    versions: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = changes(versions(nudge), capsys)
    assert list(found) == ["weights: classifier.bias"]
    assert found["weights: classifier.bias"]["by"] == pytest.approx(0.25, abs=1e-6)


def test_tensors_that_came_or_went_are_named_with_their_shapes(
    versions: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = changes(versions(rename_tensor), capsys)
    gone, came = found["weights: classifier.bias"], found["weights: head.bias"]
    assert (gone["old"], gone["new"]) == ("float32 [10]", "")
    assert (came["old"], came["new"]) == ("", "float32 [11]")


def test_labels_graph_preprocessing_figures_and_origin_are_compared(
    versions: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = versions(
        relabel,
        add_node,
        figures__consistency=0.5,
        preprocessing__mean=[0.5],
        tolerances__parity=0.5,
        origin__command=["--only", "other"],
        origin__weights_sha256="0" * 64,
    )
    found = changes(arguments, capsys)
    assert found["labels: class 1"]["new"] == "jumper"
    assert found["graph: operators Identity"]["new"] == "1"
    assert found["graph: bytes"]["by"] > 0
    assert found["preprocessing: mean"]["new"] == "(0.5,)"
    assert found["limits: parity"]["new"] == "0.5"
    consistency = found["figures: consistency"]
    assert consistency["by"] == pytest.approx(0.5 - float(consistency["old"]), abs=1e-6)
    assert found["origin: --only"]["new"] == "other"
    assert found["origin: checkpoint"]["new"] == "0" * 64
    assert len(found) == 8


def test_the_table_fits_eighty_columns_and_names_every_change(
    versions: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = versions(nudge, relabel, origin__weights_sha256="0" * 64)
    assert main(arguments) == DIFFERENT
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{NAME}: version 1 -> 2"
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in ("weights", "classifier.bias", "+0.25", "labels", "class 1", "000000000000..."):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([NAME, "1", "7"], "'fashion_blur' has no version 7; it has 1, 2"),
        (["nobody", "1", "2"], "there is no model 'nobody' in "),
    ],
)
def test_what_is_not_there_cannot_be_compared(
    versions: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    output = versions()[3:]
    assert main([*arguments, *output]) == CANNOT_TELL
    assert message in capsys.readouterr().err


def test_a_damaged_version_cannot_be_compared(
    versions: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = versions()
    nudge(tmp_path / NAME / "2")
    assert main(arguments) == CANNOT_TELL
    assert "has sha256" in capsys.readouterr().err


def scale_all(folder: Path) -> None:
    """Double every weight that is no counter."""
    weights = load_file(folder / REFERENCE_FILE)
    save_file(
        {name: np.asarray(value * 2) for name, value in weights.items()}, folder / REFERENCE_FILE
    )


def test_of_many_tensors_those_that_changed_the_most_are_shown(
    versions: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = versions(scale_all)
    found = changes(arguments, capsys)
    largest = max(change["by"] for change in found.values())
    main(arguments)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line and line[-1].startswith("+")]
    assert len(rows) == 10
    assert rows[0][-1] == f"{largest:+.3g}"
    assert ["and", str(len(found) - 10), "more"] in [line[:3] for line in lines]
