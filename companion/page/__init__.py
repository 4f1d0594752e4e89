"""What a browser sees of the companion."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from companion.record import Record


def routes(record: Record) -> list[Route]:
    """Return the pages that show a record."""

    def overview(_: Request) -> PlainTextResponse:
        lines = [
            f"{state.name} version {state.version}: {state.verdict.value} {state.reason}".rstrip()
            for state in record.models()
        ]
        return PlainTextResponse("\n".join([*lines, ""]))

    return [Route("/", overview)]
