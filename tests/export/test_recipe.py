"""What a person asks for, by flags or in a file, and what they are told when it is wrong."""

import re
import subprocess
import sys
from argparse import ArgumentParser
from inspect import signature
from itertools import pairwise
from pathlib import Path

import pytest

from nyquist.export.recipe.command import command_of
from nyquist.export.recipe.flags import add_arguments, specs_from_arguments
from nyquist.export.recipe.recipe import RecipeError, relaxed, relaxed_limits, with_precisions
from nyquist.export.recipe.yaml_file import read_recipes
from nyquist.models.choices import ARCHITECTURES, DOWNSAMPLING_KINDS
from nyquist.models.networks import architectures
from nyquist.models.spec import PRECISIONS, Limits, ModelSpec, Preprocessing
from nyquist.models.zoo import specs
from nyquist.server.wire.framing import Framing
from tests.processes import ROOT

LABELLED = ("--labels", "labels.txt", "--samples", "photos")
OWN = ("--arch", "resnet18", "--name", "products", "--input", "3x64x48")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder of a person with a checkpoint and two classes."""
    (tmp_path / "my.pth").write_bytes(b"weights")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(*arguments: str) -> list[ModelSpec]:
    parser = ArgumentParser()
    add_arguments(parser)
    return specs_from_arguments(parser.parse_args(arguments))


def refused(*arguments: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as error:
        asked(*arguments)
    return error.value.problems


def test_a_recipe_is_read_without_torch() -> None:
    program = (
        "import sys, nyquist.export.recipe.yaml_file, nyquist.export.recipe.flags\n"
        "assert nyquist.export.recipe.flags.zoo_specs()\n"
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, timeout=120, check=False).returncode == 0


def test_the_names_that_are_checked_are_those_that_are_built() -> None:
    assert tuple(ARCHITECTURES) == tuple(architectures.ARCHITECTURES)
    for name, build in architectures.ARCHITECTURES.items():
        assert set(ARCHITECTURES[name]) == set(signature(build).parameters) - {"name", "network"}


def test_flags_describe_a_model_of_ones_own() -> None:
    (spec,) = asked(
        *OWN,
        *("--downsampling", "blur", "--taps", "4", "--option", "placement=timm"),
        *("--weights", "my.pth", "--labels", "labels.txt", "--samples", "photos"),
        *("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
        *("--outputs", "logits,features", "--max-batch-size", "8"),
        *("--sizes", "96x96,64x128", "--least-accuracy", "0.9", "--parity", "1e-4"),
    )
    assert spec == ModelSpec(
        name="products",
        architecture="resnet18",
        options={
            "placement": "timm",
            "downsampling": "blur",
            "taps": 4,
            "in_channels": 3,
            "num_classes": 2,
        },
        weights=Path("my.pth"),
        labels=("cat", "dog"),
        samples="photos",
        input=(3, 64, 48),
        preprocessing=Preprocessing("CHW", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        sizes=((96, 96), (64, 128)),
        outputs=("logits", "features"),
        max_batch_size=8,
        limits=Limits(parity=1e-4, accuracy=0.9),
    )


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ("0.4408,0.1307,0.406", "0.224", ((112.404, 33.3285, 103.53), 57.12)),
        ("127/255", "128/255", (127.0, 128.0)),
    ],
)
def test_means_of_pixels_are_exactly_what_is_written_times_255(
    mean: str, std: str, expected: tuple[float, float]
) -> None:
    (spec,) = asked(*OWN, "--input-type", "uint8", "--mean", mean, "--std", std)
    assert spec.datatype == "UINT8"
    assert spec.preprocessing == Preprocessing("HWC", *expected)


def test_pixels_without_a_mean_are_brought_to_0_and_1() -> None:
    (spec,) = asked(*OWN, "--input-type", "uint8")
    assert spec.preprocessing == Preprocessing("HWC", 0.0, 255.0)


def test_resizing_brings_every_size_to_the_input() -> None:
    (spec,) = asked(*OWN, "--input-type", "uint8", "--sizes", "32x32,200x300", "--resize")
    assert spec.preprocessing.resize == (64, 48)
    assert spec.shape == (-1, -1, 3)


def test_pictures_are_read_by_the_imagenet_convention_unless_asked_otherwise() -> None:
    ways = {
        (): Framing("bicubic", 0.875, "crop"),
        ("--interpolation", "bilinear", "--crop-share", "0.95"): Framing("bilinear", 0.95, "crop"),
        ("--fit", "canvas"): Framing("bicubic", 1.0, "canvas"),
    }
    for flags, framing in ways.items():
        (spec,) = asked(*OWN, *flags)
        assert spec.picture == framing


def test_tensors_of_a_network_are_named_by_their_places_and_asked_for_again_alike() -> None:
    flags = ("--outputs", "logits=1,map=maps,probabilities")
    (spec,) = asked(*OWN, *flags)
    assert spec.outputs == ("logits", "map", "probabilities")
    assert spec.picks == (("logits", "1"), ("map", "maps"))
    assert flags in pairwise(command_of(spec))


def test_a_function_of_a_module_gets_the_options_that_are_given_and_no_other() -> None:
    (spec,) = asked("--arch", "json:loads", "--name", "x", "--input", "1x8x8", "--option", "a=1.5")
    assert (spec.architecture, spec.options) == ("json:loads", {"a": 1.5})


def test_an_onnx_file_stands_likewise_and_what_is_not_done_to_it_is_named(desk: Path) -> None:
    (desk / "net.onnx").touch()
    file = ("--onnx", str(desk / "net.onnx"), "--name", "own", "--input", "3x8x8")
    (spec,) = asked(*file, "--outputs", "logits,probabilities")
    assert (spec.onnx, spec.architecture, spec.program) == (desk / "net.onnx", "net.onnx", None)
    unfit = (
        "is not offered for an ONNX file, which keeps its sizes, its float32 and its outputs "
        "(probabilities can be added)"
    )
    assert refused(*file, "--precision", "fp16", "--sizes", "8x8,16x16", "--resize") == (
        f"--sizes: {unfit}",
        f"--resize: {unfit}",
        f"--precision: {unfit}",
    )
    assert refused(*file, "--arch", "resnet18") == (
        "--arch: an ONNX file is a whole network; leave it out",
    )


def test_a_program_stands_in_place_of_an_architecture_and_of_all_that_it_settles(
    desk: Path,
) -> None:
    (desk / "net.pt2").touch()
    program = ("--program", str(desk / "net.pt2"), "--name", "own", "--input", "3x8x8")
    (spec,) = asked(*program)
    assert (spec.program, spec.architecture, spec.options) == (desk / "net.pt2", "net.pt2", {})
    assert refused(*program, "--arch", "resnet18", "--taps", "3", "--program", "gone.pt2") == (
        "--arch: a program is a whole network; leave it out",
        "--taps: a program is a whole network; leave it out",
        "--program: there is no file gone.pt2; did you mean net.pt2?",
    )
    assert refused("--name", "own", "--input", "3x8x8", "--program", str(desk)) == (
        f"--program: {desk} is a folder, not a file",
    )


def test_several_kinds_and_precisions_are_a_model_each() -> None:
    found = asked(*OWN, "--downsampling", "blur,strided", "--precision", "fp32,int8")
    assert [(spec.name, spec.precision) for spec in found] == [
        ("products_blur", "fp32"),
        ("products_blur_int8", "int8"),
        ("products_strided", "fp32"),
        ("products_strided_int8", "int8"),
    ]


def test_the_zoo_is_built_in_other_precisions_too() -> None:
    found = asked("--only", "fashion_blur", "--precision", "int8,fp32")
    assert [spec.name for spec in found] == ["fashion_blur", "fashion_blur_int8"]
    assert found[0] == specs()["fashion_blur"]
    assert found[1].limits.parity > found[0].limits.parity
    assert found[1].limits.accuracy == found[0].limits.accuracy


def test_without_flags_the_zoo_is_built() -> None:
    assert asked() == list(specs().values())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_limits_that_are_relaxed_stay_as_they_are_when_relaxed_again(precision: str) -> None:
    for spec in specs().values():
        once = relaxed_limits(spec.limits, precision)  # type: ignore[arg-type] # parametrised
        assert relaxed_limits(once, precision) == once  # type: ignore[arg-type] # parametrised


def test_a_network_that_is_exact_under_shifts_must_stay_so_in_int8() -> None:
    limits = relaxed(specs()["fashion_polyphase"], "int8").limits
    assert (limits.consistency, limits.consistency_drop) == (1.0, 0.0)


OWN_MODELS = [
    OWN,
    (*OWN, "--input-type", "uint8", "--mean", "127/255", "--std", "128/255"),
    (*OWN, "--mean", "0.1307", "--weights", "my.pth", "--labels", "labels.txt", "--parity", "0.01"),
    (*OWN, "--sizes", "32x32", "--resize", "--precision", "int8", "--least-consistency", "0.5"),
    (*OWN, "--downsampling", "blur", "--taps", "2", "--option", "num_classes=7"),
    (*OWN, "--interpolation", "lanczos", "--crop-share", "0.95"),
    (*OWN, "--fit", "canvas"),
    (*OWN, "--weights", "my.pth", "--weights-key", "ema.module"),
    ("--arch", "json:loads", "--name", "x", "--input", "1x8x8", *LABELLED),
    (*OWN, "--labels", "labels.txt", "--precision", "fp16", "--calibration", "photos"),
]


@pytest.mark.parametrize("arguments", OWN_MODELS)
def test_the_command_of_a_model_builds_the_same_model(arguments: tuple[str, ...]) -> None:
    (spec,) = asked(*arguments)
    assert asked(*command_of(spec)) == [spec]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_command_of_a_model_of_the_zoo_is_its_name(precision: str) -> None:
    for spec in with_precisions(specs().values(), [precision]):  # type: ignore[list-item] # parametrised
        command = command_of(spec)
        assert command[0] == "--only"
        assert asked(*command) == [spec]


def test_a_command_says_nothing_of_the_machine(desk: Path) -> None:
    absolute = ("--weights", str(desk / "my.pth"), "--samples", str(desk / "photos"))
    command = command_of(asked(*OWN, "--labels", str(desk / "labels.txt"), *absolute)[0])
    assert "/" not in " ".join(command)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "resnet51"], "--arch: unknown architecture 'resnet51'; did you mean resnet50?"),
        (["--arch", "no.such:thing"], "--arch: there is no module 'no'; is its folder on PYTHON"),
        (["--arch", "a:b:c"], "--arch: 'a:b:c' is not written module:function"),
        (["--name", "index"], "--name: 'index' is the page of all models; choose another"),
        (["--name", "../up"], "--name: '../up' is no name of a folder"),
        (["--input", "224"], "--input: sizes are written 3x224x224 or 224x224, got '224'"),
        (["--downsampling", "blurr"], "--downsampling: unknown downsampling 'blurr'; did you mean"),
        (["--taps", "8"], "--taps: taps must be a whole number in 1..7, got 8"),
        (["--option", "bottleneck=v1"], "--option bottleneck: unknown bottleneck 'v1' of resnet18"),
        (
            ["--option", "pad_mod=zero"],
            "--option pad_mod: resnet18 has no option 'pad_mod'; did you mean pad_mode?",
        ),
        (["--option", "pad"], "--option: is written KEY=VALUE, got 'pad'"),
        (["--option", "num_classes=3"], "--option num_classes: is 3, and labels has 2 names"),
        (["--option", "in_channels=1"], "--option in_channels: is 1, and input has 3 channels"),
        (["--mean", "0.5,0.5"], "--mean: has 2 values, input 3x64x48 takes 1 or 3"),
        (
            ["--mean", "123.675,127,255"],
            "--mean: is of pictures in 0..1, not of pixels in 0..255: 0.485,127/255,1",
        ),
        (["--std", "255"], "--std: is of pictures in 0..1, not of pixels in 0..255: 1"),
        (["--input", "64x48x3"], "--input: 64x48x3 has 64 channels; height and width come last, "),
        (["--outputs", "probabilities"], "--outputs: begin with logits, each once: logits,proba"),
        (["--outputs", "logits,logits"], "--outputs: begin with logits, each once: logits"),
        (
            ["--labels", "spaces.txt"],
            "--labels: spaces.txt line 2: ' dog ' has spaces around it; write 'dog'",
        ),
        (
            ["--labels", "breaks.txt"],
            "--labels: breaks.txt line 1: 'big\\u2028cat' has another line break inside; wri",
        ),
        (["--mean", "half"], "--mean: must be a number or a fraction such as 127/255, got 'half'"),
        (["--std", "0"], "--std: must be above 0, got 0"),
        (["--weights", "my.pt"], "--weights: there is no file my.pt; did you mean my.pth?"),
        (["--weights", "photos"], "--weights: photos is a folder, not a file"),
        (["--weights-key", "model"], "--weights-key: chooses an entry of a checkpoint; give wei"),
        (["--labels", "no/labels.txt"], "--labels: there is no folder no"),
        (["--labels", "blank.txt"], "--labels: blank.txt has no name in line 2"),
        (["--samples", "fashio"], "--samples: there is no folder fashio; did you mean fashion?"),
        (["--samples", "empty"], "--samples: empty holds no pictures"),
        (["--samples", "misnamed"], "--samples: misnamed/dgo: 'dgo' is none of the 2 labels"),
        (["--input-type", "int8"], "--input-type: unknown input type 'int8'; did you mean uint8?"),
        (["--outputs", "logit"], "--outputs: unknown output 'logit'; did you mean logits?"),
        (["--outputs", "map=1"], "--outputs: begin with logits, each once: logits,map"),
        (["--outputs", "logits=0,map="], "--outputs: 'map=' is not written NAME=PLACE, with a"),
        (["--outputs", "logits,features=1"], "--outputs: 'features=1' is not written NAME=PLACE"),
        (["--precision", "fp8"], "--precision: unknown precision 'fp8'; choose from fp32"),
        (["--resize"], "--resize: needs sizes"),
        (["--interpolation", "cubic"], "--interpolation: unknown interpolation 'cubic'; "),
        (["--fit", "crap"], "--fit: unknown fit 'crap'; did you mean crop"),
        (["--crop-share", "1.5"], "--crop-share: input should be less than or equal to 1"),
        (
            ["--fit", "canvas", "--crop-share", "0.9"],
            "--crop-share: nothing is cut off on a canvas",
        ),
        (["--least-accuracy", "90"], "--least-accuracy: input should be less than or equal to 1"),
        (["--only", "products"], "--only chooses among models that are known"),
    ],
)
def test_a_wrong_flag_is_named_with_what_would_be_right(
    desk: Path, arguments: list[str], message: str
) -> None:
    (desk / "blank.txt").write_text("cat\n\ndog\n")
    (desk / "spaces.txt").write_text("cat\n dog \n")
    (desk / "breaks.txt").write_text("big\u2028cat\ndog\n", encoding="utf-8")
    (desk / "empty").mkdir()
    (desk / "misnamed" / "dgo").mkdir(parents=True)
    problems = refused(*OWN, "--labels", "labels.txt", *arguments)
    assert len(problems) == 1
    assert problems[0].startswith(message)


def test_a_mark_of_byte_order_is_no_part_of_a_label_or_of_a_file(desk: Path) -> None:
    (desk / "labels.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    (desk / "models.yaml").write_text(
        "models:\n- {name: a, arch: resnet18, input: 3x64x64, labels: labels.txt}\n",
        encoding="utf-8-sig",
    )
    (spec,) = asked("--config", "models.yaml")
    assert spec.labels == ("cat", "dog")


def test_options_of_a_file_may_be_null_flags_and_lists_and_are_built_again(desk: Path) -> None:
    options = "{pretrained: null, bias: true, widths: [16, 32], size: 3, kind: '3', mode: same}"
    (desk / "models.yaml").write_text(
        f"models:\n- {{name: a, arch: 'json:loads', input: 3x64x64, options: {options}}}\n"
    )
    (spec,) = asked("--config", "models.yaml")
    assert spec.options == {
        **{"pretrained": None, "bias": True, "widths": [16, 32]},
        **{"size": 3, "kind": "3", "mode": "same"},
    }
    (again,) = asked(*command_of(spec))
    assert again == spec
    assert again.options["bias"] is True


def test_an_option_of_a_file_that_is_a_mapping_is_refused_in_one_line(desk: Path) -> None:
    (desk / "models.yaml").write_text(
        "models:\n- {name: a, arch: 'json:loads', input: 3x64x64, options: {a: {b: 1}}}\n"
    )
    (problem,) = refused("--config", "models.yaml")
    assert problem.startswith("models.yaml:2: options.a: must be a text, a number, true, null or a")


def test_a_name_that_yaml_takes_for_a_number_is_told_to_be_quoted(desk: Path) -> None:
    (desk / "models.yaml").write_text("models:\n- {name: 2024, arch: resnet18, input: 3x64x64}\n")
    (problem,) = refused("--config", "models.yaml")
    assert problem == "models.yaml:2: name: 2024 is a number in YAML; put it in quotes: '2024'"


def test_flags_of_a_model_without_an_architecture_are_refused() -> None:
    assert refused("--mean", "0.5") == (
        "--mean: describes a model of your own; give --arch, --program or --onnx too",
    )


def test_everything_that_is_wrong_is_said_at_once() -> None:
    problems = refused("--arch", "resnet5", "--input", "3x8x8", "--mean", "1,2", "--weights", "x")
    assert [problem.split(":")[0] for problem in problems] == [
        *("--name", "--arch", "--mean", "--weights")
    ]


def test_what_follows_from_another_mistake_is_not_told() -> None:
    (problem,) = refused(*OWN[:-1], "224", "--mean", "0.5,0.5,0.5")
    assert problem.startswith("--input: ")


FILE = """\
defaults:
  arch: resnet18
  input: [3, 64, 64]
  labels: labels.txt
  options: {placement: timm}
models:
  - name: products
    downsampling: [max_pool, avg_pool, strided, blur, max_blur]
    weights: "{downsampling}.pth"
    parity: 1e-4
  - name: products_polyphase
    downsampling: polyphase
    options: {placement: zhang}
    weights: my.pth
"""


def test_one_entry_of_a_file_builds_a_family_with_weights_of_their_own(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in DOWNSAMPLING_KINDS:
        (desk / f"{kind}.pth").touch()
    (desk / "models.yaml").write_text(FILE)
    monkeypatch.chdir("/")

    found = read_recipes(desk / "models.yaml")

    assert [spec.name for spec in found] == [f"products_{kind}" for kind in DOWNSAMPLING_KINDS]
    assert [spec.options["downsampling"] for spec in found] == list(DOWNSAMPLING_KINDS)
    assert found[0].weights == desk / "max_pool.pth"
    assert found[5].weights == desk / "my.pth"
    assert [spec.options["placement"] for spec in found] == ["timm"] * 5 + ["zhang"]
    assert found[0].limits.parity == 1e-4
    assert found
    assert all(spec.labels == ("cat", "dog") for spec in found)


def test_only_chooses_among_the_models_of_a_file(desk: Path) -> None:
    (desk / "models.yaml").write_text(
        "defaults: {arch: resnet18, input: 3x8x8}\nmodels: [{name: a}, {name: b}]"
    )
    assert [spec.name for spec in asked("--config", "models.yaml", "--only", "b")] == ["b"]
    (problem,) = refused("--config", "models.yaml", "--only", "c")
    assert problem == "unknown model 'c'; choose from a, b"
    (problem,) = refused("--config", "models.yaml", "--mean", "1")
    assert problem.startswith("--mean: --config has models of its own")


WRONG = """\
default:
  arch: resnet18
defaults:
  input: 3x64x64
  mean: 0.5, 0.5
models:
  - name: a
    arch: resnet8
    downsampling:
      - blur
      - blr
  - name: b
    arch: resnet18
    wieghts: my.pth
    options:
      placement: top
    options: {}
  - arch: resnet18
    weights: my.pt
  - name: b
    arch: resnet18
    mean: 0.5
  - {name: b, arch: resnet18, mean: 0.5}
"""


def test_every_mistake_of_a_file_is_told_with_its_line(desk: Path) -> None:
    (desk / "models.yaml").write_text(WRONG)
    problems = refused("--config", "models.yaml")
    found = [re.fullmatch(r"models\.yaml:(\d+): (.*)", problem) for problem in problems]
    told = [(int(match[1]), match[2]) for match in found if match]
    assert len(told) == len(problems)
    expected = [
        (1, "there is no part 'default'; did you mean defaults?"),
        (5, "mean: has 2 values, input 3x64x64 takes 1 or 3"),
        (8, "arch: unknown architecture 'resnet8'; did you mean resnet18?"),
        (11, "downsampling.1: unknown downsampling 'blr'; did you mean blur?"),
        (14, "wieghts: there is no field 'wieghts'; did you mean weights?"),
        (17, "options is also in line 15"),
        (18, "name: is missing"),
        (19, "weights: there is no file my.pt; did you mean my.pth?"),
        (23, "name: 'b' is also the name of line 20"),
    ]
    assert [line for line, _ in told] == [line for line, _ in expected]
    for (_, message), (_, start) in zip(told, expected, strict=True):
        assert message.startswith(start)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "models.yaml:1: the file must have models: a list of them"),
        ("defaults: {}", "models.yaml:1: models must be a list of one or more"),
        ("\nmodels: {a: 1}", "models.yaml:2: models must be a list of one or more"),
        ("models:\n- resnet18", "models.yaml:2: must be fields and their values"),
        ("models:\n- a: [1", "models.yaml:2: expected ',' or ']'"),
        ("models: &a [*a]", "models.yaml:1: must be fields and their values"),
        ("models:\n- name: !!python/object:os.system x", "models.yaml:2: could not determine"),
    ],
)
def test_a_file_that_is_no_list_of_models_is_refused(desk: Path, text: str, message: str) -> None:
    (desk / "models.yaml").write_text(text)
    (problem,) = refused("--config", "models.yaml")
    assert problem.startswith(message)


def test_a_file_that_is_not_there_is_one_clear_line() -> None:
    (problem,) = refused("--config", "model.yaml")
    assert problem.startswith("model.yaml cannot be read: ")
