"""How figures are written on a page."""

from math import cos, floor, log10, pi

CURVE_POINTS = 49


def compact(count: float) -> str:
    """Write a count with three digits: 79866 -> 79.9 k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def percent(share: float) -> str:
    """Write a share with one decimal: 0.967 -> 96.7%."""
    return f"{100 * share:.1f}%"


def short(value: float) -> str:
    """Write a number with two digits: 3.3379e-05 -> 3.3e-05."""
    return f"{value:.2g}"


def milliseconds(value: float) -> str:
    """Write a time with three digits, never as a power of ten."""
    digits = 2 - floor(log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), 3)}f}"


def figure(value: object) -> str:
    """Write a figure of a manifest, whatever it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not measured" if value is None else str(value)


def decade(exponent: int) -> str:
    """Write a power of ten: -5 -> 10⁻⁵."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def response(taps: int) -> list[tuple[float, float]]:
    """Return the gain of a binomial blur, cos(w / 2) ** (taps - 1), over w in units of pi."""
    places = [at / (CURVE_POINTS - 1) for at in range(CURVE_POINTS)]
    return [(place, cos(pi * place / 2) ** (taps - 1)) for place in places]
