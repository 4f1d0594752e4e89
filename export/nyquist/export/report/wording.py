"""How figures are written on a page, beside the companion's page kit."""

from math import cos, pi, sqrt

CURVE_POINTS = 49
FEW = 30
"""Below which a share of yes or no is written as a count."""
NORMAL_95 = 1.96
"""Standard deviations of a normal distribution that hold 95 % of it."""


def compact(count: float) -> str:
    """Write a count with three digits: 79866 -> 79.9 k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def share(value: float, error: float | None, count: int) -> str:
    """Write the mean of a share over pictures with its standard error.

    An error of 0 says that all are alike and nothing of others: of fewer than 30 stands how many
    there are, of more the interval of Wilson (95 %).

    Args:
        value: 0..1.
        error: of it; None for the share of yes or no, of which it follows.
        count: pictures.
    """
    whole = error is None or (error == 0 and value in (0, 1))
    if whole and count < FEW:
        return f"{round(value * count)} of {count}"
    if error is None:
        error = sqrt(value * (1 - value) / max(count - 1, 1))
    if error == 0 and value in (0, 1):
        reach = NORMAL_95**2 / (count + NORMAL_95**2)
        beyond = f"at least {100 * (1 - reach):.1f}%" if value else f"at most {100 * reach:.1f}%"
        return f"{100 * value:.1f}%, {beyond}"
    return f"{100 * value:.1f}% ± {100 * error:.1f}"


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
