"""How figures are written on a page, beside the companion's page kit."""

from math import cos, pi

from nyquist.companion.page.kit.wording import built, share
from nyquist.server.artifact.built import circular_of
from nyquist.server.artifact.manifest import Manifest

CURVE_POINTS = 49
MEANINGS = {
    "parameters": ("parameters", "learned values of the network"),
    "multiply_adds": ("multiply-adds", "of one picture"),
    "parity": (
        "parity",
        "largest difference of an output from the reference, as a share of the outputs' spread",
    ),
    "max_abs_error": ("largest difference", "of an output, as it is"),
    "mean_abs_error": ("mean difference", "of all outputs, as it is"),
    "agreement": ("agreement", "share of the samples with the same answer as the reference"),
    "batch_invariant": (
        "same in every batch",
        "an answer has the same bits whatever pictures ride with it",
    ),
    "batch_error": ("batch error", "where it has not: how far it moves, as parity is"),
    "index_margin": (
        "margin of the grid",
        "how much stronger the grid that a polyphase layer takes is than the next, at least; "
        "near 0 rounding could take the other",
    ),
    "accuracy": ("accuracy", "share of the labelled samples that are answered rightly"),
    "accuracy_drop": ("accuracy lost", "what the reference has more of it"),
    "torch_accuracy": ("accuracy of the reference", "on the same samples"),
    "confidence": ("confidence", "least probability of the right label of a labelled sample"),
    "labelled": ("labelled samples", "that accuracy is taken of"),
    "consistency": (
        "circular consistency",
        "share of pairs of places around the frame with one answer",
    ),
    "consistency_drop": ("circular consistency lost", "what the reference has more of it"),
    "consistency_error": ("error of it", "standard error over the samples"),
    "torch_consistency": ("circular consistency of the reference", "at the same places"),
    "samples": ("samples", "pictures of the build that were moved around the frame"),
    "int8_share": ("share in int8", "of the multiply-adds"),
    "one_pixel": (
        "one-pixel consistency",
        "share of windows of larger pictures with the answer of the window one pixel beside",
    ),
    "one_pixel_error": ("error of it", "standard error over those pictures"),
    "torch_one_pixel": ("one-pixel consistency of the reference", "at the same places"),
    "pairs": ("pairs around the frame", "of places, for each sample"),
    "one_pixel_pairs": ("pairs of windows", "for each larger picture"),
    "one_pixel_samples": ("larger pictures", "that the windows are taken out of"),
}
"""Figures and limits of a manifest by their keys: what a page calls them, and what they say."""


def compact(count: float) -> str:
    """Write a count with three digits: 79866 -> 79.9 k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def meaning(key: str) -> tuple[str, str]:
    """Return what a figure or limit of a manifest is called on a page, and what it says."""
    return MEANINGS.get(key, (key.replace("_", " "), ""))


def figure(value: object) -> str:
    """Write a figure of a manifest, whatever it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not measured" if value is None else str(value)


def measured(manifest: Manifest, name: str, value: object) -> str:
    """Write a figure of a manifest by its name: shares of few pictures as what was counted."""
    counts = {"accuracy": manifest.figures.labelled, "agreement": manifest.figures.samples}
    if name == "consistency":
        return built(circular_of(manifest))
    if name in counts and isinstance(value, float) and manifest.head.kind != "embedding":
        return share(value, None, counts[name])
    return figure(value)


def response(taps: int) -> list[tuple[float, float]]:
    """Return the gain of a binomial blur, cos(w / 2) ** (taps - 1), over w in units of pi."""
    places = [at / (CURVE_POINTS - 1) for at in range(CURVE_POINTS)]
    return [(place, cos(pi * place / 2) ** (taps - 1)) for place in places]
