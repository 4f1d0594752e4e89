import re
import tomllib

import pytest

from tests.docs.pages import ROOT, folders, names_in, paths_in, section

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
HOUSE = (ROOT / "docs" / "images" / "house.svg").read_text(encoding="utf-8")
PACKAGES = ("models", "server", "client", "companion", "export")
WALKS = ("A request", "A build", "A probe", "A metric")


def rows(text: str) -> list[str]:
    """Return the folders in the first column of a table."""
    return re.findall(r"^\| `(\w+)/` \|", text, re.M)


def rooms_on_page(package: str) -> list[str]:
    """Return the rooms of a package that the page has, from the top down."""
    heading = f"### {package}/nyquist/{package}/\n"
    _, found, rest = section(PAGE, "Rooms").partition(heading)
    return rows(rest.partition("### ")[0]) if found else []


def floors(package: str) -> dict[str, int]:
    """Return the floor of each room that a contract of import-linter has, counted from the top."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    inside = ROOT / package / "nyquist" / package
    found: dict[str, int] = {}
    for contract in settings["tool"]["importlinter"]["contracts"]:
        if contract.get("containers") == [f"nyquist.{package}"]:
            for floor, layer in enumerate(contract["layers"]):
                rooms = (room for room in re.findall(r"\w+", layer) if (inside / room).is_dir())
                found |= dict.fromkeys(rooms, floor)
    return found


def rooms_in_picture(package: str) -> list[str]:
    """Return the rooms of a package in the picture of the house, from the top down."""
    shown = re.findall(rf'y="(\d+)" class="room" data-of="{package}">(\w+)<', HOUSE)
    return [room for _, room in sorted(shown, key=lambda one: int(one[0]))]


def test_the_table_of_folders_has_every_folder_of_the_repository() -> None:
    assert sorted(rows(section(PAGE, "Folders"))) == sorted(folders())


@pytest.mark.parametrize("package", PACKAGES)
def test_the_table_of_rooms_has_every_room_of_a_package(package: str) -> None:
    inside = ROOT / package / "nyquist" / package
    assert sorted(rooms_on_page(package)) == sorted(
        path.parent.name for path in inside.glob("*/__init__.py")
    )


@pytest.mark.parametrize("package", ["models", "server", "companion", "export"])
def test_rooms_stand_in_the_order_in_which_they_may_import(package: str) -> None:
    floor = floors(package)
    rooms = rooms_on_page(package)
    assert floor.keys() == set(rooms)
    assert rooms == sorted(rooms, key=lambda room: floor[room])


@pytest.mark.parametrize("package", PACKAGES)
def test_the_picture_shows_the_rooms_of_the_page(package: str) -> None:
    assert rooms_in_picture(package) == rooms_on_page(package)


@pytest.mark.parametrize("walk", WALKS)
def test_every_station_of_a_walk_has_its_number_and_its_place(walk: str) -> None:
    stations = re.findall(r"^(\d+)\. (.*?)(?=^\S|\Z)", section(PAGE, walk), re.M | re.S)
    assert [int(number) for number, _ in stations] == list(range(1, len(stations) + 1))
    assert len(stations) > 5
    assert [text for _, text in stations if not names_in(text) | paths_in(text)] == []
