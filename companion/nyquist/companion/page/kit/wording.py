"""How figures are written on a page."""

from datetime import UTC, datetime
from math import floor, isfinite, log10, sqrt

FEW = 30
"""Below which a share of yes or no is written as a count."""
NORMAL_95 = 1.96
"""Standard deviations of a normal distribution that hold 95 % of it."""
MINUS = "\N{MINUS SIGN}"

UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def percent(share: float) -> str:
    """Write a share with one decimal: 0.967 -> 96.7%."""
    return f"{100 * share:.1f}%"


def fine_percent(share: float) -> str:
    """Write a share with two decimals, as what it is held against: 0.9297 -> 92.97%."""
    return f"{100 * share:.2f}%"


def wilson(value: float, count: int) -> tuple[float, float]:
    """Return the interval of a share of so many yes or no (Wilson, 95 %).

    >>> [round(end, 3) for end in wilson(14 / 16, 16)]
    [0.64, 0.965]
    """
    square = NORMAL_95**2
    middle = (value * count + square / 2) / (count + square)
    reach = NORMAL_95 * sqrt(count * value * (1 - value) + square / 4) / (count + square)
    return middle - reach, middle + reach


def share(value: float, error: float | None, count: int, each: int = 1) -> str:
    """Write the mean of a share over pictures with its standard error.

    Of fewer than 30 pictures stands how many of how many. Where all are alike, an error of 0 says
    nothing of other pictures: the end of the interval of Wilson (95 %) stands beside it.

    Args:
        value: 0..1.
        error: of it; None for the share of yes or no, of which it follows.
        count: pictures.
        each: yes or no of each picture; 0 where the value is no share of these.
    """
    if count < FEW and each:
        return f"{round(value * count * each)} of {count * each}"
    if error is None:
        error = sqrt(value * (1 - value) / max(count - 1, 1))
    if each and error == 0 and value in (0, 1):
        low, high = wilson(value, count)
        beyond = f"at least {percent(low)}" if value else f"at most {percent(high)}"
        return f"{percent(value)}, {beyond}"
    return f"{100 * value:.1f}% ± {100 * error:.1f}"


def so_far(value: float, count: int, trials: int, *, yes_or_no: bool = True) -> tuple[str, str]:
    """Write a share that is not known to its end, as a count of few; and its interval.

    Args:
        value: 0..1.
        count: pictures, which alone are independent.
        trials: that were made of them.
        yes_or_no: of each trial; otherwise the value is the mean of something else.
    """
    low, high = wilson(value, count)
    few = trials < FEW and yes_or_no
    words = f"{round(value * trials)} of {trials}" if few else percent(value)
    return words, f"{percent(low)} to {percent(high)}"


def narrow(words: str) -> str:
    """Write the same for a table of 80 columns: 100.0%, at least 99.2% -> 100% ≥ 99.2%."""
    return words.replace("100.0%, at least ", "100% ≥ ").replace("0.0%, at most ", "0% ≤ ")


def built(figure: tuple[float, float, int, int]) -> str:
    """Write what a build measured of shift consistency, as it stands wherever it is quoted."""
    return share(*figure)


def short(value: float) -> str:
    """Write a number with two digits: 3.3379e-05 -> 3.3e-05."""
    return f"{value:.2g}" if isfinite(value) else "not finite"


def milliseconds(value: float) -> str:
    """Write a time with three digits, never as a power of ten."""
    digits = 2 - floor(log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), 3)}f}"


def decade(exponent: int) -> str:
    """Write a power of ten: -5 -> 10⁻⁵."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def power_of_ten(value: float) -> str:
    """Write a power of ten as one: 1e-05 -> 10⁻⁵."""
    return decade(round(log10(value)))


def plain(value: float) -> str:
    """Write a round number as it is: 20.0 -> 20."""
    return f"{value:g}"


def logit(value: float) -> str:
    """Write a logit, or what stands in its place: 0.5 -> 0.5000."""
    return f"{value:.4f}".replace("-", MINUS) if isfinite(value) else str(value)


def signed(value: float) -> str:
    """Write a difference: 0.00012 -> +0.00012."""
    return f"{value:+.2g}".replace("-", MINUS) if isfinite(value) else "not finite"


def hundredths(value: float) -> str:
    """Write a number with two decimals and a true minus, but none of nothing: -0.001 -> 0.00."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)


def moment(time_s: float) -> str:
    """Write a Unix time: 2026-11-25 22:54:03 UTC."""
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def machine_moment(time_s: float) -> str:
    """Write a Unix time for programs: 2026-11-25T22:54:03Z."""
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def age(seconds: float) -> str:
    """Write how long ago something was, in its largest unit: 135 -> 2 min."""
    whole = max(0, round(seconds))
    return next((f"{whole // size} {unit}" for size, unit in UNITS if whole >= size), "0 s")
