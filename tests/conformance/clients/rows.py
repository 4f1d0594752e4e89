"""What every client's script shares: one call, one line of JSON."""

import json
from collections.abc import Callable


def row(call: str, right: Callable[[], object]) -> None:
    """Make a call; `right` returns whether its answer is, or raises."""
    try:
        result = "ok" if right() else "wrong answer"
    except Exception as error:  # noqa: BLE001 - whatever a client raises is its result
        result = f"{type(error).__name__}: {error}"
    print(json.dumps({"call": call, "result": result}), flush=True)  # noqa: T201 - the output


def refused(call: Callable[[], object], *words: str) -> bool:
    """Say whether a call raises an error with all of these words in it."""
    try:
        call()
    except Exception as error:
        text = f"{type(error).__name__} {error}"
        if all(word in text for word in words):
            return True
        raise
    return False
