"""A network of others, built whole from a program; networks.py builds them all."""

from pathlib import Path

from tests.interop.networks import build


def test_a_network_of_others_is_built_and_answers_as_pytorch_does(tmp_path: Path) -> None:
    row = build("hf_vit", "program", tmp_path)
    assert row.reason == ""
    assert row.parity is not None
    assert row.parity < 1e-4
    assert (tmp_path / "repository" / "hf_vit_program" / "1" / "reference.pt2").is_file()
