"""Print the table of clients and calls: python -m tests.conformance.table [TARGET].

Without a target it serves model_repository itself.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conformance.environments import ALL, OVER_HTTP, Row, run_client
from tests.conformance.plain import run_curl, run_grpcio, run_node
from tests.conformance.reflected import run_reflected
from tests.processes import ROOT, start_server


def write_picture(path: Path) -> None:
    """Write a picture of noise that is neither square nor of any model's size."""
    noise = np.random.default_rng(5).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(path)


def rows_of_all(target: str) -> dict[str, list[Row]]:
    """Run every client against a server; return its rows by its name."""
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / "picture.jpg"
        write_picture(picture)
        rows = {
            client.name: run_client(client, (target, str(picture))) for client in ALL + OVER_HTTP
        }
        plain = {"grpcio": run_grpcio, "grpc-js": run_node, "curl": run_curl}
        rows |= {name: run(target, picture) for name, run in plain.items()}
    return rows | {"reflection (grpc_reflection)": run_reflected(target)}


def markdown(rows: dict[str, list[Row]]) -> str:
    """One line for each call, one column for each client; empty where it has no such call."""
    results = {(name, row.call): row.result for name, found in rows.items() for row in found}
    calls = list(dict.fromkeys(row.call for found in rows.values() for row in found))
    lines = [["call", *rows], ["---"] * (len(rows) + 1)]
    lines += [[call, *(results.get((name, call), "") for name in rows)] for call in calls]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str]) -> None:
    """Print the table."""
    if arguments:
        print(markdown(rows_of_all(arguments[0])))  # noqa: T201 - the command line
        return
    server = start_server(ROOT / "model_repository", ("--drain-s", "0", "--transport", "h2corn"))
    try:
        print(markdown(rows_of_all(server.target)))  # noqa: T201 - as above
    finally:
        server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
