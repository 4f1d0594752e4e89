"""An unmodified tritonclient, in an environment of its own: its pins clash with ours."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nyquist.models.samples import photograph_samples
from tests.conformance.environments import interpreter
from tests.processes import ROOT, RunningServer

FAMILIES = ("max_pool", "avg_pool", "strided", "blur", "max_blur", "polyphase")

ESPRESSO = """
import sys
import numpy as np
import tritonclient.grpc as triton

pixels = np.load(sys.argv[2])[None]
image = triton.InferInput("image", pixels.shape, "UINT8")
image.set_data_from_numpy(pixels)
client = triton.InferenceServerClient(sys.argv[1])
logits = client.infer("efficientnet_lite0", [image]).as_numpy("logits")[0]
probabilities = np.exp(logits - logits.max())
print(logits.argmax(), probabilities.max() / probabilities.sum())
"""


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter of the client's own environment, made when it is first wanted."""
    return interpreter("tritonclient-2.73.0")


def run(python: Path, script: str, *arguments: str) -> list[str]:
    command = [str(python), "-c", script, *arguments]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_the_example_of_the_pages_names_an_ankle_boot_by_every_family(
    python: Path, server: RunningServer
) -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    (example,) = re.findall(r"```python\n(import numpy.*?)```", page, flags=re.DOTALL)
    printed = run(python, example.replace("localhost:8001", server.target))
    assert [line.split()[0] for line in printed] == list(FAMILIES)
    assert printed
    assert all(line.endswith(":9:ankle boot") for line in printed)
    shown = re.findall(r"^(\w+) (\S+):9:ankle boot$", page, flags=re.MULTILINE)
    assert [name for name, _ in shown] == list(FAMILIES)
    # Processors with other vector units round the sums of a convolution otherwise.
    assert [float(logit) for _, logit in shown] == pytest.approx(
        [float(re.split("[ :]", line)[1]) for line in printed], abs=2e-5
    )


def test_the_espresso_is_found_with_more_than_nine_tenths(
    python: Path, server: RunningServer, tmp_path: Path
) -> None:
    coffee = photograph_samples().images[3].numpy()
    np.save(tmp_path / "coffee.npy", coffee)
    (line,) = run(python, ESPRESSO, server.target, str(tmp_path / "coffee.npy"))
    index, probability = line.split()
    assert int(index) == 967
    assert float(probability) > 0.9
