"""How figures are written on a page, beside the companion's page kit."""

from math import cos, pi

CURVE_POINTS = 49


def compact(count: float) -> str:
    """Write a count with three digits: 79866 -> 79.9 k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def figure(value: object) -> str:
    """Write a figure of a manifest, whatever it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not measured" if value is None else str(value)


def response(taps: int) -> list[tuple[float, float]]:
    """Return the gain of a binomial blur, cos(w / 2) ** (taps - 1), over w in units of pi."""
    places = [at / (CURVE_POINTS - 1) for at in range(CURVE_POINTS)]
    return [(place, cos(pi * place / 2) ** (taps - 1)) for place in places]
