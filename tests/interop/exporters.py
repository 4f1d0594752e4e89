"""Serve what other exporters write, as it is, and hold each answer against onnxruntime's.

exported.py in its environment -> a repository without manifests -> a server -> a row a file

    python -m tests.interop.exporters [--repository FOLDER]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
import onnx
import onnxruntime as ort

from nyquist.server.wire import tensors
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.conformance.environments import interpreter
from tests.processes import ROOT, start_server

ROWS = 3


def write_files(repository: Path) -> None:
    """Write the files of exported.py, with packages of the environment exporters beside ours."""
    (packages,) = interpreter("exporters").parents[1].glob("lib/python*/site-packages")
    path = os.pathsep.join((str(ROOT), str(packages)))
    command = [sys.executable, "-m", "tests.interop.exported", str(repository)]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True)


def ask(stub: stubs.GRPCInferenceServiceStub, name: str, file: Path) -> str:
    """Ask for three rows of noise; return in which way the answer is not onnxruntime's, or ""."""
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=name))
    generator = np.random.default_rng(0)
    request, feeds = pb.ModelInferRequest(model_name=name), {}
    for tensor in metadata.inputs:
        shape = (ROWS, *tensor.shape[1:])
        feeds[tensor.name] = generator.normal(size=shape).astype(tensors.DTYPES[tensor.datatype])
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        request.raw_input_contents.append(feeds[tensor.name].tobytes())
    answer = stub.ModelInfer(request)
    names = [output.name for output in answer.outputs]
    expected = ort.InferenceSession(file).run(names, feeds)
    for output, raw, truth in zip(
        answer.outputs, answer.raw_output_contents, expected, strict=True
    ):
        got = tensors.DTYPES[output.datatype], tuple(output.shape), raw
        if got != (truth.dtype, truth.shape, truth.tobytes()):
            return f"{output.name} is not what onnxruntime gives"
    return ""


def results(repository: Path) -> dict[str, str]:
    """Serve a repository, and return what is wrong with each model of it; "" where nothing is."""
    files = {folder.name: folder / "1" / "model.onnx" for folder in sorted(repository.iterdir())}
    server = start_server(repository, ["--drain-s", "0", "--no-strict-readiness"])
    try:
        with grpc.insecure_channel(server.target) as channel:
            stub = stubs.GRPCInferenceServiceStub(channel)
            index = stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
            refused = {model.name: model.reason for model in index if model.state != "READY"}
            return {
                name: refused[name] if name in refused else ask(stub, name, file)
                for name, file in files.items()
            }
    finally:
        server.stop()


def row(name: str, file: Path, wrong: str) -> str:
    """Return a line of the table."""
    model = onnx.load(file, load_external_data=False)
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return f"| `{name}` | {model.producer_name} | {opset} | {wrong or 'bit for bit'} |\n"


def main() -> int:
    """Write and serve the files, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, help="an empty folder, to keep the files in")
    kept = parser.parse_args().repository
    with TemporaryDirectory() as scratch:
        repository = kept or Path(scratch)
        write_files(repository)
        found = results(repository)
        sys.stdout.write("| file | producer | opset | served |\n| --- | --- | --- | --- |\n")
        for name, wrong in found.items():
            sys.stdout.write(row(name, repository / name / "1" / "model.onnx", wrong))
    served = sum(not wrong for wrong in found.values())
    sys.stdout.write(f"\n{served} of {len(found)} are served, bit for bit\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
