"""A folder of pictures: which files there are and what they show. Read without torch.

FOLDER/*.jpg          without labels
FOLDER/<class>/*.jpg  each of the class that its folder names, or counts from 0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
UNLABELLED = -1


@dataclass(frozen=True)
class Picture:
    """One file.

    Attributes:
        path: of the file.
        label: index of the class that it shows, or UNLABELLED.
    """

    path: Path
    label: int


def find_pictures(folder: Path, labels: Sequence[str]) -> list[Picture]:
    """Return the pictures of a folder, by name.

    Args:
        folder: holds pictures, or one folder of them for each class; not both.
        labels: names of the classes, in the order of the logits; a folder may also be named by
            the index of its class.

    Raises:
        ValueError: there is no picture, or a folder names no class.
        OSError: the folder cannot be read.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    classes = [entry for entry in entries if entry.is_dir()]
    flat = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    if flat and classes:
        raise ValueError(
            f"{folder} holds pictures ({flat[0].name}) beside folders ({classes[0].name}); "
            "put them all into one folder for each class, or have no folders"
        )
    found = [Picture(path, UNLABELLED) for path in flat]
    for entry in classes:
        label = class_index(entry, labels)
        found += [
            Picture(path, label)
            for path in sorted(entry.iterdir())
            if path.suffix.lower() in SUFFIXES and path.is_file()
        ]
    if not found:
        raise ValueError(f"{folder} holds no pictures: no {', '.join(SUFFIXES)}")
    return found


def class_index(folder: Path, labels: Sequence[str]) -> int:
    """Return the class that a folder is named after.

    Raises:
        ValueError: it is named after none.
    """
    name = folder.name
    if name in labels:
        return labels.index(name)
    if name.isascii() and name.isdecimal() and (not labels or int(name) < len(labels)):
        return int(name)
    if not labels:
        raise ValueError(f"{folder} names a class, and the model has no labels; give them")
    near = get_close_matches(name, labels, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"they begin {', '.join(labels[:3])}"
    raise ValueError(
        f"{folder}: {name!r} is none of the {len(labels)} labels, nor an index; {hint}"
    )
