"""A server whose model takes as long as it is told to, as one on an accelerator of its own does.

python -m benchmarks.paced_replica RUN_MS PICTURE_MS [OPTION of nyquist serve ...]

All but the run itself is the server as it is shipped: its transport, its event loop, its batcher.
A run takes RUN_MS and PICTURE_MS a picture, whatever else the cores of this machine do.
"""

import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.server.__main__ import main
from nyquist.server.runtime.engine import Engine
from nyquist.server.serving import loading


class PacedEngine(Engine):
    """Computes the first picture of a batch, waits for the others, and answers all with it."""

    run_s = picture_s = 0.0

    def run(self, batch: Any) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - as the engine's
        began = time.perf_counter()
        first = super().run(batch[:1])
        answer = {name: np.repeat(value, len(batch), 0) for name, value in first.items()}
        left = began + self.run_s + self.picture_s * len(batch) - time.perf_counter()
        time.sleep(max(0.0, left))
        return answer


if __name__ == "__main__":
    PacedEngine.run_s, PacedEngine.picture_s = (float(value) / 1e3 for value in sys.argv[1:3])
    setattr(loading, "Engine", PacedEngine)  # noqa: B010 - in place of the one that computes
    sys.exit(main(sys.argv[3:]))
