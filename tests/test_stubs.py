import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT


def test_the_committed_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    outputs = [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    protos = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "proto").glob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "server/pb=proto", *outputs]
    subprocess.run([*command, *protos], cwd=ROOT, check=True)
    generated = {path.name: path.read_text() for path in (tmp_path / "server" / "pb").iterdir()}
    committed = {
        path.name: path.read_text()
        for path in (ROOT / "server" / "pb").iterdir()
        if path.is_file() and path.name != "__init__.py"
    }
    assert generated == committed
