"""Two nodes of Ray on one machine: python -m tests.deploy.ray_nodes serve | batch | build.

a network namespace of its own -> two nodes -> deploy/ray under load beside the plain server, a node
killed | a batch of 2,000 pictures interrupted, killed, a node killed, and taken up again | four
models built, interrupted after one, and taken up again

Runs in an environment that has Ray, and begins again by itself where no other machine can be seen.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import yaml
from numpy.typing import NDArray
from pyarrow import parquet

from nyquist.client.client import Client, RemoteModel
from tests.processes import ROOT, RunningServer, start_server

MODEL = "fashion_blur"
CALLERS = 16
STORE_BYTES = 80 * 2**20
PATIENCE_S = 240.0
PAUSE_S = 0.02
PICTURES = 2000


def main() -> None:
    """Run one of the three, and print what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("serve", "batch", "build"))
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    options = parser.parse_args()
    if socket.if_nameindex() != [(1, "lo")]:
        begin_again_alone()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    with two_nodes() as (cluster, second):
        if options.what == "serve":
            serve(cluster, second, options.seconds)
        elif options.what == "batch":
            batch(cluster, second)
        else:
            build()


def begin_again_alone() -> None:
    """Take this process's place with one whose network is a loopback alone: Ray trusts callers."""
    command = [sys.executable, "-m", "tests.deploy.ray_nodes", *sys.argv[1:]]
    script = 'ip link set lo up && exec "$@"'
    os.execvp("unshare", ["unshare", "-rn", "sh", "-c", script, "sh", *command])  # noqa: S606, S607


@contextmanager
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """Start a head and one more node, each of one core; yields the cluster and that node."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **node})
    second = cluster.add_node(**node)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        yield cluster, second
    finally:
        cluster.shutdown()


def serve(cluster: Any, second: Any, seconds: float) -> None:
    """Load the plain server and Ray in turn, then kill a node under load."""
    with tempfile.TemporaryDirectory() as folder, on_ray(Path(folder)) as target:
        plain = start_server(ROOT / "model_repository", ("--load", MODEL, "--threads", "1"))
        with Client(target) as ours, Client(plain.target) as theirs:
            until(lambda: answers(ours))
            model = theirs.look_up(MODEL)
            picture = np.zeros((1, *model.shape), np.float32)
            load(ours, model, picture, 3 * seconds)  # until it has scaled up
            before = others_cpu_s()
            time.sleep(seconds)
            say(f"idle: {1e3 * (others_cpu_s() - before) / seconds:.0f} ms of CPU a second")
            for _ in range(3):
                for name, client in (("plain", theirs), ("ray", ours)):
                    before = others_cpu_s()
                    line, count = load(client, model, picture, seconds)
                    cost = 1e3 * (others_cpu_s() - before) / max(1, count)
                    say(f"{name}: {line}, {cost:.2f} ms of CPU an image")
            say(replicas())
            killer = ThreadPoolExecutor(1)
            gone = killer.submit(kill_after, cluster, second, seconds / 3)
            say(f"killed: {load(ours, model, picture, 3 * seconds)[0]}")
            gone.result()
        plain.stop()


@contextmanager
def on_ray(folder: Path) -> Iterator[str]:
    """Serve as deploy/ray/serve.yaml says, on two nodes that share one address."""
    config = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
    config["proxy_location"] = "HeadOnly"
    (app,) = config["applications"]
    app["args"] |= {"repository": [str(ROOT / "model_repository")], "load": [MODEL]}
    app["deployments"][0]["autoscaling_config"] |= {"max_replicas": 2, "upscale_delay_s": 1}
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).with_name("serve")), "run", str(file)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{config['grpc_options']['port']}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)


def load(
    client: Client, model: RemoteModel, picture: NDArray[Any], seconds: float
) -> tuple[str, int]:
    """Have so many callers ask one after the other; return how it went, and how many answers."""
    times: list[float] = []
    lost: dict[str, int] = {}
    end = time.perf_counter() + seconds

    def call() -> None:
        while (start := time.perf_counter()) < end:
            try:
                client.infer(model, picture)
                times.append(time.perf_counter() - start)
            except grpc.RpcError as error:
                key = f"{error.code().name}: {error.details()}"[:90]
                lost[key] = lost.get(key, 0) + 1

    with ThreadPoolExecutor(CALLERS) as pool:
        for one in [pool.submit(call) for _ in range(CALLERS)]:
            one.result()
    p50, p99, most = 1e3 * np.quantile(times, (0.5, 0.99, 1.0))
    line = (
        f"{len(times) / seconds:,.0f} images/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest "
        f"{most:,.0f} ms, {len(times):,} answered, lost {lost}"
    )
    return line, len(times)


def others_cpu_s() -> float:
    """Return the CPU time of all other processes of this network namespace, seconds."""
    own = Path("/proc/self/ns/net").readlink()
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) == os.getpid() or (folder / "ns/net").readlink() != own:
                continue
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def replicas() -> str:
    """Say how many run: each takes one core, and each node has one."""
    import ray

    ray.init(log_to_driver=False, logging_level="ERROR")
    cores = int(ray.cluster_resources()["CPU"])
    free = int(ray.available_resources().get("CPU", 0))
    ray.shutdown()  # or the node that it is connected to could not be removed
    return f"{cores - free} replicas on {cores} nodes"


def kill_after(cluster: Any, node: Any, seconds: float) -> None:
    """Kill a node and all that runs there, after a while."""
    time.sleep(seconds)
    cluster.remove_node(node, allow_graceful=False)


def batch(cluster: Any, second: Any) -> None:
    """Interrupt, kill and take up a batch again, by either engine; under Ray kill a node too."""
    plain = start_server(ROOT / "model_repository", ("--load", MODEL, "--threads", "1"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = folder / "pictures"
        pictures.mkdir()
        known = sorted((ROOT / "models/nyquist/models/data/fashion").glob("*.png"))
        for number in range(PICTURES):
            copied = known[number % len(known)].read_bytes()
            (pictures / f"{number:05d}.png").write_bytes(copied if number != 500 else copied[:99])
        for engine in ("processes", "ray"):
            one_batch(engine, pictures, folder / f"{engine}.parquet", plain, cluster, second)
    plain.stop()


def one_batch(
    engine: str,
    pictures: Path,
    answers: Path,
    server: RunningServer,
    cluster: Any,
    second: Any,
) -> None:
    """Run one batch three times over, and count its rows."""
    command = [sys.executable, "-m", "nyquist", "classify", str(pictures), "--model", MODEL]
    command += ["--target", server.target, "--output", str(answers), "--engine", engine]
    parts = answers.with_name(f"{answers.name}.parts")

    def begun() -> subprocess.Popen[str]:
        words = [*command, "--top", "1"]
        return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def done() -> int:
        return len(list(parts.glob("*.jsonl")))

    run = begun()
    until(lambda: done() >= 4)
    run.send_signal(signal.SIGINT)
    say(f"{engine}: Ctrl-C: {told(run)}, status {run.returncode}, {done()} parts")
    run, before = begun(), done()
    until(lambda: done() >= before + 4)
    run.kill()
    run.wait()
    say(f"{engine}: kill -9: {done()} parts")
    run, before = begun(), done()
    if engine == "ray":
        until(lambda: done() > before)
        cluster.remove_node(second, allow_graceful=False)
        say(f"{engine}: a node killed: {done()} parts")
    say(f"{engine}: to its end: {told(run)}, status {run.returncode}")
    rows = parquet.read_table(answers).to_pylist()
    errors = [row["error"] for row in rows if row["error"]]
    names = {row["picture"] for row in rows}
    say(f"{engine}: {len(rows)} rows of {len(names)} pictures, errors {json.dumps(errors)}")


def build() -> None:
    """Build four models on both nodes; interrupt that once one is published, and go on."""
    names = ["fashion_strided", "fashion_avg_pool", "fashion_max_pool", "fashion_blur"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "nyquist", "build", "--engine", "ray", "--output", folder]
        command += ["--only", *names, "--json"]
        start = time.monotonic()
        run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        until(lambda: published(Path(folder)) != [])
        run.send_signal(signal.SIGINT)
        _, text = run.communicate(timeout=PATIENCE_S)
        kept = published(Path(folder))
        say(f"Ctrl-C: status {run.returncode}, {text.strip().splitlines()[-1]}, published {kept}")
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        said = {key: value for key, value in json.loads(ended.stdout).items() if key != "models"}
        say(f"again: status {ended.returncode}, {json.dumps(said)[:400]}")
        say(f"{published(Path(folder))} in {time.monotonic() - start:.0f} s")


def published(folder: Path) -> list[str]:
    """Name the models that are whole."""
    return sorted(one.parent.parent.name for one in folder.glob("*/1/manifest.json"))


def told(run: subprocess.Popen[str]) -> str:
    """Wait for its end; return what it says, without what Ray says of its nodes."""
    _, text = run.communicate(timeout=PATIENCE_S)
    lines = [line for line in text.splitlines() if re.search(r"pictures|left|cannot", line)]
    return "; ".join(lines)


def answers(client: Client) -> bool:
    """Whether the model is served."""
    try:
        client.look_up(MODEL)
    except (grpc.RpcError, ValueError):
        return False
    return True


def say(line: str) -> None:
    """Print it at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def until(condition: Callable[[], bool]) -> None:
    """Look until it is so.

    Raises:
        TimeoutError: it takes too long.
    """
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(condition)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
