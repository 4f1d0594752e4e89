"""One server in several processes: what the supervisor and what each worker runs.

settings -> Supervisor -> workers, each a Server on the same socket
"""

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
from functools import partial

import uvloop

from nyquist.server.app import Server, make_sources
from nyquist.server.front.lifecycle import run_until_signal
from nyquist.server.runtime.cores import available_cores
from nyquist.server.scheduling.instance import runs_left_behind
from nyquist.server.settings import AUTO_WORKERS, MOST_WORKERS, Settings
from nyquist.server.telemetry.logs import configure_logs
from nyquist.server.wire.errors import NyquistError
from nyquist.server.workers.channel import Channel
from nyquist.server.workers.fleet import Fleet
from nyquist.server.workers.supervisor import Supervisor

PR_SET_PDEATHSIG = 1
ORPHANED = signal.SIGUSR1
"""Ends a worker that only starts; of one that runs, a drain begins."""


def with_workers(settings: Settings, cores: int | None = None) -> Settings:
    """Return the settings with a number of workers: what was asked for, or one for two cores.

    Each has a core for its event loop then, and one for what its models run on.
    """
    if settings.workers != AUTO_WORKERS:
        return settings
    fitting = (cores or available_cores()) // 2
    return settings.model_copy(update={"workers": min(max(1, fitting), MOST_WORKERS)})


async def supervise(settings: Settings) -> None:
    """Serve in several processes until a signal comes.

    Args:
        settings: of the operator.

    Raises:
        NyquistError: the server cannot start.
    """
    work = partial(serve_as_worker, settings, os.getpid())
    metrics_address = (settings.scraped_host, settings.metrics_port)
    address = (settings.host, settings.port)
    supervisor = Supervisor(work, settings.workers, address, metrics_address)
    sources = make_sources(settings, supervisor.registry)
    await supervisor.run(sources, settings.load, settings.poll_s)


def serve_as_worker(
    settings: Settings, parent: int, listening: socket.socket, end: socket.socket, number: int
) -> None:
    """Serve as one of several processes, until the parent passes a signal on or dies.

    Args:
        settings: of the operator.
        parent: process id of the supervisor.
        listening: the socket of gRPC.
        end: of the channel to the supervisor.
        number: of this worker, from 1.
    """
    _follow(parent)
    configure_logs(settings.log_level, settings.log_format)
    gc.freeze()

    async def work() -> None:
        asyncio.get_running_loop().add_signal_handler(ORPHANED, _stop_as_orphan)
        channel = Channel(end)
        await channel.open()
        fleet = Fleet(channel, number)
        try:
            server = Server(settings, listening=listening, fleet=fleet)
            await run_until_signal(server, settings.drain_s, settings.grace_s)
        except NyquistError as error:
            channel.send("failed", str(error))
            raise SystemExit(1) from error
        finally:
            fleet.close()

    uvloop.run(work())
    if runs_left_behind():
        logging.shutdown()
        os._exit(0)


def _follow(parent: int) -> None:
    """Hear no Ctrl-C but from the parent, and be told when it dies.

    What came of it until now is dropped: the parent ends a process that only starts.

    Args:
        parent: its process id; if it has died already, this process ends at once.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the loop hears it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ORPHANED)
    if os.getppid() != parent:
        os.kill(os.getpid(), ORPHANED)


def _stop_as_orphan() -> None:
    """Drain and stop, once: the signal comes for each thread that the parent had."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(ORPHANED, lambda: None)
    os.kill(os.getpid(), signal.SIGTERM)
