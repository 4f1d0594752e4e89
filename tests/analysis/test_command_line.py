import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nyquist.models.analysis.__main__ import main
from nyquist.models.analysis.analysed import load_subject
from nyquist.models.networks.architectures import create
from nyquist.models.programs import write_program


@pytest.fixture(autouse=True)
def _a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines() if "wrote " not in line) <= 80
    assert "…" not in text
    return text


def assert_drawn(path: Path) -> None:
    """Assert that a PNG has something on it."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 600
        assert np.asarray(picture.convert("L")).std() > 5


def test_outputs_shows_sizes_and_what_is_unread(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "outputs", "--sizes", "28", "224")

    (line,) = (line for line in text.splitlines() if "3x3 s4 p1" in line)
    assert line.split()[3:6] == ["7", "56", "48.98%"]


def test_blocks_shows_the_factor_of_four(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "blocks", "--channels", "8", "16")

    assert text.count(f"{8 * 16 * 9 + 3 * 16:,}") == 2
    assert f"{8 * 16 * 9 * 56 * 56:,}    4.00" in text
    assert f"{8 * 16 * 9 * 28 * 28:,}    1.00" in text
    assert "quartiles" in text


def test_gradients_shows_the_layers_and_draws_their_patterns(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = printed(capsys, "gradients", "--plots", str(tmp_path))

    assert "max 2x2 s2         75.00%" in text
    assert_drawn(tmp_path / "gradient_patterns.png")


def test_aliasing_shows_the_filters_and_draws_their_responses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = printed(capsys, "aliasing", "--plots", str(tmp_path))

    assert "7.56%         0.257" in text
    assert_drawn(tmp_path / "filter_responses.png")


def test_aliasing_takes_a_shift_by_half_a_pixel(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = printed(capsys, "aliasing", "--shift", "0.5", "--plots", str(tmp_path))

    rows = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    errors = [float(row[2]) for row in rows]
    assert "a shift by 0.5 px" in text
    assert errors == sorted(errors, reverse=True)


def test_a_model_of_the_zoo_is_analysed_in_full(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = printed(capsys, "fashion_strided", "--plots", str(tmp_path))

    for part in ("79,866", "Theoretical receptive", "95 %", "Nyquist limit", "BatchNorm2d"):
        assert part in text
    for plot in ("receptive_field", "effective_field", "aliasing"):
        assert_drawn(tmp_path / f"fashion_strided_{plot}.png")


def test_an_architecture_takes_its_downsampling(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--downsampling", "max_blur", "--size", "64", "--plots", str(tmp_path))
    text = printed(capsys, "receptive-field", "compact", *options)

    (line,) = (line for line in text.splitlines() if "stages.3.3.1" in line)
    assert line.split()[2:5] == ["4", "76", "16"]


def strided() -> nn.Module:
    return create("compact", downsampling="strided")


def test_a_function_and_its_program_and_its_graph_have_the_same_field(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, repository: Path
) -> None:
    options = ("--size", "48", "--plots", str(tmp_path))
    (tmp_path / "net.pt2").write_bytes(write_program(strided().eval(), torch.zeros(2, 1, 48, 48)))
    fields = []
    for model in (
        f"{__name__}:strided",
        str(tmp_path / "net.pt2"),
        str(repository / "fashion_strided" / "1" / "model.onnx"),
    ):
        text = printed(capsys, "receptive-field", model, *options)
        rows = [line.split()[2:] for line in text.splitlines() if line.endswith("    ")]
        fields.append([row for row in rows if row and row[0].isdecimal()])
    assert fields[0][-1] == ["1", "63", "16", "16", "-7.5"]
    assert fields[0] == fields[1] == fields[2]
    for command in ("aliasing", "uses"):
        for file in ("net.pt2", "net.onnx"):
            assert main([command, str(tmp_path / file)]) == 2
            assert f"{command} looks at the modules of a network" in capsys.readouterr().err


class Mixed(nn.Module):
    """Rows of pixels that look at each other, and no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 2, batch_first=True)
        self.classifier = nn.Linear(24, 10)

    def forward(self, image: Tensor) -> Tensor:
        rows = image.permute(0, 2, 1, 3).flatten(2)
        return self.classifier(self.attention(rows, rows, rows)[0].mean(1))


def test_what_is_not_known_of_a_network_is_said_and_the_rest_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = printed(capsys, f"{__name__}:Mixed", "--size", "8", "--plots", str(tmp_path))
    assert "not measured: attention: no receptive field is known for the operator" in text
    assert "multiply-adds" in text
    assert "of the cross entropy of the network's own answers" in text


def test_the_layers_of_a_graph_have_the_names_of_its_modules_and_are_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, repository: Path
) -> None:
    graph = repository / "fashion_strided" / "1" / "model.onnx"
    text = printed(capsys, str(graph), "--plots", str(tmp_path))

    names = [line.split()[0] for line in text.splitlines() if " Conv " in line]
    assert names == ["stages.0.0", "stages.1.0", "stages.2.0", "stages.3.0"]
    assert_drawn(tmp_path / "fashion_strided_receptive_field.png")


def test_json_has_the_numbers_and_not_their_looks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "blocks.json"
    assert main(["blocks", "--channels", "8", "16", "--json", "--output", str(file)]) == 0
    text = capsys.readouterr().out

    assert text == file.read_text()
    pooled = json.loads(text)["tables"][0]["rows"][0]
    assert (pooled["parameters"], pooled["multiply-adds"]) == (1200, 3_612_672)
    assert main(["outputs", "--json"]) == 0
    shortcut = json.loads(capsys.readouterr().out)["tables"][0]["rows"][0]
    assert shortcut["unread"] == 0.75
    assert shortcut["reads from the 2nd"] == [0, 1, 0, 1, 0, 1]


def test_plots_say_in_their_names_how_the_network_was_built(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    common = ("receptive-field", "compact", "--size", "48", "--plots", str(tmp_path))
    printed(capsys, *common, "--downsampling", "blur", "--taps", "5", "--option", "in_channels=3")
    printed(capsys, *common, "--downsampling", "strided", "--dark")

    assert {path.name for path in tmp_path.iterdir()} == {
        "compact_blur_taps_5_in_channels_3_receptive_field.png",
        "compact_strided_receptive_field.png",
    }
    with Image.open(tmp_path / "compact_strided_receptive_field.png") as picture:
        assert np.asarray(picture.convert("L"))[0, 0] < 60


def test_the_layout_of_a_graph_of_ours_is_its_own(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    graph = str(repository / "efficientnet_lite0" / "1" / "model.onnx")
    own = printed(capsys, graph)
    assert own == printed(capsys, "receptive-field", graph, "--layout", "HWC")


def test_noise_has_the_mean_and_the_deviation_of_the_pictures() -> None:
    subject = load_subject("fashion_blur", count=4)
    noise = subject.noise(64)

    assert subject.pictures.shape == (4, 1, 48, 48)
    assert noise.mean().item() == pytest.approx(subject.pictures.mean().item(), abs=0.01)
    assert noise.std().item() == pytest.approx(subject.pictures.std().item(), abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet1"], "unknown architecture 'resnet1'"),
        (["receptive-field", "missing.onnx"], "missing.onnx"),
        (["compact", "--taps", "9"], "taps must be a whole number in 1..7, got 9"),
        (["compact", "--option", "tap=3"], "compact has no option 'tap'; did you mean taps?"),
        (["aliasing", f"{__name__}:strided", "--taps", "3"], "strided takes no taps"),
        (
            ["aliasing", "fashion_strided", "--downsampling", "blur"],
            "fashion_strided is a model of the zoo, compact with downsampling=strided and its "
            "weights; downsampling=blur can be had of the architecture: nyquist analyse compact",
        ),
    ],
)
def test_what_cannot_be_analysed_is_an_error_that_says_why(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2

    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output", "fashion_blur"], "no command 'output'; choose from outputs, blocks"),
        (["receptive-field"], "receptive-field needs a MODEL"),
    ],
)
def test_a_wrong_command_line_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)

    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "shown", "plot"),
    [
        ("properties", ["28,901,376", "802,816", "150,528", "75%", "3.1"], "properties"),
        ("backward", ["3x3 s2 p1", "stride 1 / s"], "fractional_stride"),
        ("field-growth", ["3, 4, 8, 10, 18, 22, 38, 46", "3, 7, 15, 31"], "field_growth"),
    ],
)
def test_a_comparison_shows_its_figures_and_draws_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, shown: list[str], plot: str
) -> None:
    text = printed(capsys, command, "--plots", str(tmp_path))

    assert [figure for figure in shown if figure not in text] == []
    assert_drawn(tmp_path / f"{plot}.png")


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("stems", ["590,592", "9,536", "28,768", "4,896", "928"]),
        ("bottlenecks", ["3,858.0 M", "4,089.2 M", "483", "427", "515", "75%"]),
        ("shift", ["0.5 px", "1 px", "2 px", "strided", "polyphase"]),
    ],
)
def test_a_comparison_of_blocks_shows_its_figures(
    capsys: pytest.CaptureFixture[str], command: str, shown: list[str]
) -> None:
    text = printed(capsys, command)

    assert [figure for figure in shown if figure not in text] == []
