import subprocess
import sys
from pathlib import Path

import pytest

from tests.stubs import COMMITTED, PROTO, generate


def test_the_committed_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    generate(tmp_path)
    generated = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in COMMITTED.glob("*_pb2*")}
    assert generated == committed


def protoc(*arguments: str, folder: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "--python_out=.", *arguments]
    subprocess.run(command, cwd=folder, check=True)


def test_the_protos_compile_from_an_empty_folder_with_nothing_but_themselves(
    tmp_path: Path,
) -> None:
    names = [path.stem for path in sorted(PROTO.glob("*.proto"))]
    protoc(f"-I{PROTO}", *(f"{name}.proto" for name in names), folder=tmp_path)
    imports = ", ".join(f"{name}_pb2" for name in names)
    script = f"import {imports}; print(inference_pb2.ModelConfigResponse().config.name)"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


@pytest.mark.parametrize("order", [("ours", "theirs"), ("theirs", "ours")])
def test_a_process_may_hold_other_stubs_of_the_same_protocol(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    # tritonclient's file has this name, describes the same messages and lies in the default pool.
    (tmp_path / "grpc_service.proto").write_text(
        'syntax = "proto3"; package inference; message ServerLiveRequest {}'
    )
    protoc("-I.", "grpc_service.proto", folder=tmp_path)
    imports = {"ours": "import nyquist.client.client", "theirs": "import grpc_service_pb2"}
    script = "\n".join(imports[whose] for whose in order)
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
