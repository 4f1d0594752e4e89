"""Networks of timm, torchvision and Hugging Face, built whole; networks.py builds them all."""

from pathlib import Path

import pytest

from tests.interop.networks import build


@pytest.mark.parametrize(
    ("network", "source"),
    [("hf_vit", "function"), ("hf_resnet", "program")],
)
def test_a_network_of_others_is_built_and_answers_as_pytorch_does(
    network: str, source: str, tmp_path: Path
) -> None:
    row = build(network, source, tmp_path)
    assert row.reason == ""
    assert row.parity is not None
    assert row.parity < 1e-3
    assert (tmp_path / "repository" / f"{network}_{source}" / "1" / "model.onnx").is_file()
