"""Models that can be compared, and the strip of one picture that slides under all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from nyquist.export.report.model_page import ModelPage
from nyquist.export.report.record import SlidePicture
from nyquist.server.artifact.manifest import LABELS_FILE


@dataclass(frozen=True)
class Run:
    """Neighbouring positions of a slide with one answer.

    Attributes:
        answer: the class.
        right: whether it is what the picture shows; of unlabelled pictures, whether it is the
            most common answer of the family.
        probabilities: of the answer, position by position.
    """

    answer: str
    right: bool
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class StripRow:
    """One model's answers along the strip.

    Attributes:
        name: of the model.
        runs: in order; together they are the positions.
        changed: how many of the followed pictures change their answer somewhere.
    """

    name: str
    runs: tuple[Run, ...]
    changed: int


@dataclass(frozen=True)
class Strip:
    """One picture that slides, and the answers of each model of a family under it.

    Attributes:
        picture: the one, of all that were followed, whose answers change most.
        positions: of the slide.
        followed: how many pictures every model was shown.
        rows: a row a model.
    """

    picture: SlidePicture
    positions: int
    followed: int
    rows: tuple[StripRow, ...]


@dataclass(frozen=True)
class Family:
    """Models that answer the same question about the same pictures.

    Attributes:
        pages: of its models, by name.
        strip: None if no picture was followed.
    """

    pages: tuple[ModelPage, ...]
    strip: Strip | None


def group(pages: Sequence[ModelPage]) -> list[Family]:
    """Put models with the same labels, input shape and followed pictures side by side."""
    alike: dict[tuple[object, ...], list[ModelPage]] = {}
    for page in pages:
        alike.setdefault(_family_key(page), []).append(page)
    return [Family(tuple(members), _strip(members)) for members in alike.values()]


def _family_key(page: ModelPage) -> tuple[object, ...]:
    manifest = page.manifest
    labels = manifest.files.get(f"{manifest.version}/{LABELS_FILE}")
    followed = tuple((slide.sha256, len(slide.answers)) for slide in page.slides)
    return labels, manifest.input.shape, manifest.outputs[0].shape, followed


def _strip(pages: Sequence[ModelPage]) -> Strip | None:
    """Choose the picture whose answers change most often over the models of a family."""
    columns = list(zip(*(page.slides for page in pages), strict=True))
    if not columns:
        return None
    chosen = max(columns, key=lambda slides: sum(map(changes, slides)))
    expected = chosen[0].label or _most_common([slide.answers for slide in chosen])
    rows = [
        StripRow(
            page.name, tuple(_runs(slide, expected)), sum(map(bool, map(changes, page.slides)))
        )
        for page, slide in zip(pages, chosen, strict=True)
    ]
    return Strip(chosen[0], len(chosen[0].answers), len(columns), tuple(rows))


def changes(slide: SlidePicture) -> int:
    """Count the steps that change the answer."""
    return sum(before != after for before, after in pairwise(slide.answers))


def _runs(slide: SlidePicture, expected: str) -> Iterator[Run]:
    followed = zip(slide.answers, slide.probabilities, strict=True)
    for answer, positions in groupby(followed, key=lambda position: position[0]):
        yield Run(answer, answer == expected, tuple(probability for _, probability in positions))


def _most_common(answers: Sequence[Sequence[str]]) -> str:
    every = [answer for of_model in answers for answer in of_model]
    return max(dict.fromkeys(every), key=every.count)
