"""python -m tests.stubs [FOLDER]: generate the stubs of proto/ into the package that holds them.

.proto -> protoc -> modules that import each other by plain names and share the process's pool
       -> imports of the package, and its own pool
"""

import re
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

PROTO = ROOT / "proto"
PACKAGE = "nyquist.server.wire.pb"
COMMITTED = ROOT / "server" / PACKAGE.replace(".", "/")

_DEFAULT_POOL = (
    "from google.protobuf import descriptor_pool as _descriptor_pool",
    "_descriptor_pool.Default()",
)
_OWN_POOL = ("from nyquist.server.wire import descriptors as _descriptors", "_descriptors.POOL")
_PLAIN_IMPORT = re.compile(r"^import (\w+_pb2)", flags=re.MULTILINE)


def generate(folder: Path) -> None:
    """Write the stubs of every .proto file into a folder that exists."""
    outputs = [f"--{kind}={folder}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    protos = [path.name for path in sorted(PROTO.glob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *outputs, *protos]
    subprocess.run(command, check=True)
    for path in [*folder.glob("*_pb2*.py"), *folder.glob("*_pb2*.pyi")]:
        text = _PLAIN_IMPORT.sub(rf"from {PACKAGE} import \1", path.read_text(encoding="utf-8"))
        for default, own in zip(_DEFAULT_POOL, _OWN_POOL, strict=True):
            text = text.replace(default, own)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else COMMITTED)
