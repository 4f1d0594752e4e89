"""nyquist rollout: what a companion makes of a new version.   /api/rollouts/NAME -> table, JSON."""

import argparse
import json
import os
import sys
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nyquist.server.wire.connection import TOKEN_VARIABLE, Connection, WrongConnection, is_loopback

CANNOT_TELL = 2
REFUSED = (401, 421)
"""What companions answer in words: a token is missing, or the host is not known."""

STATUSES = {"promote": 0, "hold": 1, "not_enough_yet": 3}
COLOURS = {"promote": "green", "hold": "red", "not_enough_yet": "yellow"}
ANSWER_S = 30.0
TITLES = {
    "disagreement": "answers that differ",
    "flips": "more answers that flip",
    "confidence": "difference of confidence",
    "latency": "requests that are slower",
}
OUTCOMES = {True: "[green]kept[/green]", False: "[red]beyond[/red]", None: "open"}

Document = Mapping[str, Any]


class NoAnswer(Exception):
    """The companion says nothing of the model; the message says why."""


def run(options: argparse.Namespace) -> int:
    """Print how the candidate of a model stands; return the exit status."""
    try:
        answer = ask(options.companion, options.name, token(options.token_file))
    except NoAnswer as error:
        sys.stderr.write(f"nyquist rollout: error: {error}\n")
        return CANNOT_TELL
    if options.json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        show(answer)
    return STATUSES[answer["decision"]]


def token(file: Path | None) -> Mapping[str, str]:
    """Return the headers that let a caller in, as those of a server's are.

    Raises:
        NoAnswer: the token cannot be read, or sent.
    """
    try:
        return dict(
            Connection(token=os.environ.get(TOKEN_VARIABLE, ""), token_file=file).metadata()
        )
    except WrongConnection as error:
        raise NoAnswer(str(error)) from error


def ask(companion: str, model: str, headers: Mapping[str, str]) -> Document:
    """Return what the companion knows of the candidate of a model.

    Args:
        companion: HOST:PORT or URL.
        model: its name.
        headers: that go with the request.

    Raises:
        NoAnswer: nobody answers there, or not as a companion does, or it knows of no candidate.
    """
    address = companion if "://" in companion else f"http://{companion}"
    if urlsplit(address).scheme not in ("http", "https"):
        raise NoAnswer(f"--companion is http://HOST:PORT or https://HOST:PORT, got {companion}")
    url = f"{address.rstrip('/')}/api/rollouts/{quote(model, safe='')}"
    here = is_loopback(urlsplit(address).hostname or "")
    proxies = urllib.request.ProxyHandler({} if here else None)
    try:
        request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - of http, above
        with urllib.request.build_opener(proxies).open(request, timeout=ANSWER_S) as answer:
            return _read(answer.read(), companion)
    except HTTPError as error:
        if error.code in REFUSED:
            told = error.read().decode(errors="replace").strip()
            raise NoAnswer(f"{companion}: {told}") from error
        raise NoAnswer(_read(error.read(), companion).get("error", f"{url}: {error}")) from error
    except URLError as error:
        why = getattr(error.reason, "strerror", None) or error.reason
        raise NoAnswer(f"no companion answers at {companion}: {why}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise NoAnswer(f"no companion answers at {companion}: {error or 'it hung up'}") from error


def _read(body: bytes, companion: str) -> Document:
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise NoAnswer(
            f"{companion} does not answer as a companion; --companion is its port of HTTP, 8004"
        ) from error
    if not isinstance(answer, dict):
        raise NoAnswer(f"{companion} does not answer as a companion")
    return answer


def show(answer: Document) -> None:
    """Print the decision, and a line a figure."""
    console = Console(highlight=False, soft_wrap=True)
    decision = answer["decision"]
    words = decision.replace("_", " ")
    console.print(
        f"{answer['model']} version {answer['candidate']} beside version {answer['baseline']}: "
        f"[{COLOURS[decision]}]{words}[/{COLOURS[decision]}], {answer['pictures']} pictures"
        + (", no longer served side by side" if answer["over"] else "")
    )
    if answer["reason"]:
        console.print(answer["reason"], markup=False)
    if answer["pictures"]:
        console.print(_table(answer))


def _table(answer: Document) -> Table:
    table = Table("figure", "so far", "may be", "allowed", "", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    for name, figure in answer["figures"].items():
        least, most = figure["least"], 100 * figure["most"]
        table.add_row(
            TITLES.get(name, name),
            "-" if figure["mean"] is None else f"{100 * figure['mean']:.2f}%",
            f"{100 * figure['low']:.2f}% to {100 * figure['high']:.2f}%",
            f"at most {most:g}%" if least is None else f"{100 * least:+g}% to {most:+g}%",
            OUTCOMES[figure["held"]],
        )
    return table
