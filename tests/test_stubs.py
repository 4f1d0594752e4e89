from pathlib import Path

from tests.stubs import COMMITTED, generate


def test_the_committed_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    generate(tmp_path)
    generated = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in COMMITTED.glob("*_pb2*")}
    assert generated == committed
