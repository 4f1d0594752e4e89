"""A program of torch.export is a network; whatever else such a file can hold is refused unread."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nyquist.models.programs import read_program, write_program

PICTURES = torch.zeros(2, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 5))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *pool).eval()


@pytest.fixture(scope="module")
def saved() -> bytes:
    return write_program(network(), PICTURES)


def exported(made: nn.Module, *pictures: Tensor, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(made, pictures or (PICTURES,), **options), file)
    return file.getvalue()


def rewritten(content: bytes, end: str, change: Callable[[bytes], bytes]) -> bytes:
    """Return the archive with one file changed; of a name that is not there, with one more."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new,
    ):
        names = old.namelist()
        for name in names:
            new.writestr(name, change(old.read(name)) if name.endswith(end) else old.read(name))
        if not any(name.endswith(end) for name in names):
            new.writestr(names[0].partition("/")[0] + "/" + end, change(b""))
    return file.getvalue()


def in_model(content: bytes, change: Callable[[Any], None]) -> bytes:
    def changed(text: bytes) -> bytes:
        model = json.loads(text)
        change(model)
        return json.dumps(model).encode()

    return rewritten(content, "models/model.json", changed)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_program_computes_what_its_network_computes(saved: bytes, batch: int) -> None:
    pictures = torch.rand(batch, 3, 8, 8)
    read = read_program(saved, "net.pt2").train()
    with torch.inference_mode():
        assert torch.equal(read(pictures), network()(pictures))


def test_an_answer_of_a_class_that_is_not_here_is_its_logits() -> None:
    class Answering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"logits": self.network(image), "hidden": image.mean((2, 3))}

    def elsewhere(model: Any) -> None:
        (call,) = (x for x in model["graph_module"]["module_call_graph"] if not x["fqn"])
        spec = call["signature"]["out_spec"]
        call["signature"]["out_spec"] = spec.replace("builtins.dict", "elsewhere.ModelOutput")
        assert call["signature"]["out_spec"] != spec

    content = exported(Answering().eval(), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    pictures = torch.rand(3, 3, 8, 8)
    for _ in range(2):
        read = read_program(in_model(content, elsewhere), "net.pt2")
        torch.testing.assert_close(read(pictures), network()(pictures))


def test_the_same_network_is_the_same_file_and_names_no_place(saved: bytes) -> None:
    assert write_program(network(), PICTURES) == saved
    assert str(Path(torch.__file__).parent).encode() not in saved


class Trap:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_nothing_of_a_file_is_unpickled_or_evaluated(saved: bytes, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    file = io.BytesIO()
    torch.save(Trap(sprung), file)

    def pickled(text: bytes) -> bytes:
        config = json.loads(text)
        config["config"]["0.weight"] |= {"use_pickle": True, "tensor_meta": None}
        return json.dumps(config).encode()

    def evaluated(model: Any) -> None:
        (values,) = (model["graph_module"]["graph"]["tensor_values"]["input"],)
        values["sizes"][0]["as_expr"]["expr_str"] = f"open({str(sprung)!r}, 'w')"

    weights = rewritten(saved, "weights/weight_0", lambda _: file.getvalue())
    for hostile, told in (
        (rewritten(saved, "sample_inputs/model.pt", lambda _: file.getvalue()), "example inputs"),
        (rewritten(weights, "model_weights_config.json", pickled), "the pickled '0.weight'"),
        (in_model(saved, evaluated), r"the size .open\("),
    ):
        with pytest.raises(ValueError, match=f"net.pt2 holds {told}.*it is not loaded"):
            read_program(hostile, "net.pt2")
    assert not sprung.exists()


def called(model: Any) -> None:
    model["graph_module"]["graph"]["nodes"][0]["target"] = "torch.hub.load"


def test_compiled_code_and_operators_of_others_are_refused(saved: bytes) -> None:
    library = rewritten(saved, "data/aotinductor/model/model.so", lambda _: b"\x7fELF")
    with pytest.raises(ValueError, match=r"holds data/aotinductor/model/model\.so"):
        read_program(library, "net.pt2")
    with pytest.raises(ValueError, match=r"holds the operator 'torch\.hub\.load'"):
        read_program(in_model(saved, called), "net.pt2")


def test_a_file_of_another_torch_says_both_versions(
    saved: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    def newer(model: Any) -> None:
        model["torch_version"] = "9.1.0"
        model["schema_version"]["major"] = 99

    told = rf"saved by torch 9.1.0, which torch {torch.__version__} cannot read: .*99".replace(
        "+", r"\+"
    )
    with pytest.raises(ValueError, match=told):
        read_program(in_model(saved, newer), "net.pt2")
    assert "Traceback" not in "".join(capfd.readouterr())


def test_what_cannot_be_served_is_refused_with_what_would_be_right() -> None:
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    for content, told in (
        (b"PK no archive", "is no file of torch.export.save"),
        (exported(network()), r"has a fixed batch of 2: export it with torch.export.export\("),
        (exported(network().train(), dynamic_shapes=(batch,)), "exported in training mode"),
        (exported(nn.Flatten(), torch.zeros(2, 8)), r"takes \(2, 8\); a classifier takes"),
        (exported(nn.Bilinear(2, 2, 2), *[torch.zeros(2, 2)] * 2), "takes 2 inputs"),
    ):
        with pytest.raises(ValueError, match=told):
            read_program(content, "net.pt2")
