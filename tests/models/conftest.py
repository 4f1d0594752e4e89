import gzip
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nyquist.export.graph.export import export_graph
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: on maps this small, threads that wait cost four times the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def parity() -> Callable[[nn.Module, Tensor], float]:
    """Export a network, then return the largest difference from eager, at several batch sizes."""

    def largest_difference(network: nn.Module, pictures: Tensor) -> float:
        graph = export_graph(network.eval(), pictures[:2]).graph
        engine = Engine(graph, Execution(provider="cpu", threads=1), max_batch_size=len(pictures))
        differences: list[float] = []
        for size in (1, 2, len(pictures)):
            batch = pictures[-size:].contiguous()
            with torch.inference_mode():
                expected = network(batch)
            served = torch.from_numpy(engine.run(batch.numpy())["logits"])
            assert served.shape == expected.shape
            differences.append((served - expected).abs().max().item())
        return max(differences)

    return largest_difference


@pytest.fixture(scope="session")
def write_idx() -> Callable[[Path, Tensor], None]:
    """Write a uint8 tensor as a gzipped IDX file."""

    def write(path: Path, values: Tensor) -> None:
        header = struct.pack(f">2xBB{values.ndim}I", 0x08, values.ndim, *values.shape)
        path.write_bytes(gzip.compress(header + values.numpy().tobytes(), mtime=0))

    return write
