"""A client in Node, made from nothing but proto/ with the packages that everybody uses for it."""

from pathlib import Path

import pytest
from PIL import Image

from nyquist.models.samples import photograph_samples
from tests.npm import installed, printed
from tests.processes import ROOT, RunningServer

NODE, NODE_WEB = Path(__file__).parent / "node", Path(__file__).parent / "node_web"
ESPRESSO = 967


def test_a_node_client_made_from_the_protos_finds_the_espresso_in_a_jpeg(
    server: RunningServer, tmp_path: Path
) -> None:
    jpeg = tmp_path / "coffee.jpg"
    Image.fromarray(photograph_samples().images[3].numpy()).save(jpeg, quality=95)
    call = (str(ROOT / "proto"), server.target, "efficientnet_lite0", str(jpeg))
    (line,) = printed(NODE / "classify.js", installed(NODE), *call)
    logit, index, label = line.split(":")
    assert (int(index), label) == (ESPRESSO, "espresso")
    assert float(logit) > 0


@pytest.mark.parametrize("transport", ["h2corn"], indirect=True, scope="session")
@pytest.mark.parametrize("form", ["binary", "text"])
def test_a_page_gets_answers_and_errors_by_grpc_web(server: RunningServer, form: str) -> None:
    proto = str(ROOT / "proto" / "inference.proto")
    lines = printed(NODE_WEB / "call.js", installed(NODE_WEB), proto, server.target, form)
    assert lines == [
        *("nyquist", "40", "fashion_strided", "stream 0"),
        "5 Request for unknown model: 'nobody' is not found",
    ]
