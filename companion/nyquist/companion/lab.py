"""nyquist lab: the shift lab by itself, beside the servers that it asks, until Ctrl-C.

options -> servers that answer -> HTTP -> a browser, where there is one -> a signal
"""

import argparse
import os
import signal
import sys
import webbrowser
from contextlib import ExitStack
from dataclasses import replace
from threading import Event

import grpc
from prometheus_client import CollectorRegistry
from rich.console import Console
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from nyquist.client.client import Client
from nyquist.client.told import told_by
from nyquist.companion.page.guard import hosts
from nyquist.companion.page.lab.routes import Lab
from nyquist.companion.page.lab.served import Models, Target
from nyquist.companion.page.web import WebListener, application
from nyquist.server.wire.connection import (
    DEFAULT_TARGET,
    Connection,
    WrongConnection,
    chosen_connection,
)
from nyquist.server.wire.errors import NyquistError
from nyquist.server.wire.listening import address


def run(options: argparse.Namespace) -> int:
    """Show the lab until a signal comes; return the exit status."""
    try:
        show(options)
    except (NyquistError, WrongConnection, OSError, ValueError) as error:
        words = f"nyquist lab: error: {error}"
        Console(stderr=True).print(words, highlight=False, markup=False, soft_wrap=True)
        return 2
    return 0


def show(options: argparse.Namespace) -> None:
    """Serve the lab, say where it is, and wait for SIGTERM or Ctrl-C.

    Raises:
        ValueError: a server does not answer; the message says what helps.
        StartError: another listens on the port.
    """
    stopped = Event()
    with ExitStack() as stack:
        for one in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(one, lambda *_: stopped.set())
            stack.callback(signal.signal, one, before)
        targets = [reached(one, stack) for one in connections(options)]
        lab = Lab(Models(targets, told_by(vars(options)), options.model))
        stack.callback(lab.close)

        def start(_: Request) -> RedirectResponse:
            return RedirectResponse("lab")

        allows = hosts(options.allowed_hosts, options.host)
        app = application(CollectorRegistry(), [Route("/", start), *lab.routes()], allows)
        listener = WebListener(app, options.host, options.http_port)
        stack.callback(listener.close)
        page = f"http://{address(options.host, listener.port)}/lab"
        sys.stdout.write(f"the lab is at {page}; Ctrl-C ends it\n")
        sys.stdout.flush()
        if options.open and has_screen():
            webbrowser.open(page)
        stopped.wait()


def connections(options: argparse.Namespace) -> list[Connection]:
    """Return the way to each server that is named, all with the same TLS and token."""
    targets = list(dict.fromkeys(options.target or [DEFAULT_TARGET]))
    first = chosen_connection(argparse.Namespace(**vars(options) | {"target": targets[0]}))
    return [replace(first, target=target) for target in targets]


def reached(connection: Connection, stack: ExitStack) -> Target:
    """Return a server that answers.

    Raises:
        ValueError: it does not; the message says what helps.
    """
    client = stack.enter_context(Client(connection, source="probe"))
    try:
        client.ready()
    except grpc.RpcError as error:
        raise ValueError(connection.explain(error)) from error
    return Target(connection, client)


def has_screen() -> bool:
    """Say whether a browser could open a window here: one in a terminal would take it over."""
    return sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
