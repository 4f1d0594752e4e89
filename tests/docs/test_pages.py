import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import PAGES, ROOT, contracts, names_in, paths_in

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def resolve(name: str) -> object:
    """Return what a dotted name names: a module, or what is in one, however deep."""
    first, *rest = name.split(".")
    found: object = import_module(first)
    for part in rest:
        inner = f"{found.__name__}.{part}" if isinstance(found, ModuleType) else ""
        is_package = hasattr(found, "__path__")
        found = import_module(inner) if is_package and find_spec(inner) else getattr(found, part)
    return found


@every_page
@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2")  # Grafana's SDK, of what we use
def test_every_name_on_a_page_exists(page: Path) -> None:
    for name in sorted(names_in(page.read_text(encoding="utf-8")) - contracts()):
        try:
            resolve(name)
        except (ImportError, AttributeError) as error:
            pytest.fail(f"{page.relative_to(ROOT)} names {name}: {error}", pytrace=False)


@every_page
def test_every_path_on_a_page_exists(page: Path) -> None:
    paths = paths_in(page.read_text(encoding="utf-8"))
    assert [path for path in sorted(paths) if not any(ROOT.glob(path))] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_link_of_a_page_beside_the_site_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_names_are_found_in_prose_and_code_and_a_wrong_one_is_told() -> None:
    text = "`nyquist.server.gone.Gone.go`, see\n```\npython -m nyquist.models.train\n```\n"
    assert names_in(text) == {"nyquist.server.gone.Gone.go", "nyquist.models.train"}
    with pytest.raises(AttributeError, match="no attribute 'gone'"):
        resolve("nyquist.server.gone.Gone.go")


def test_paths_are_found_in_code_alone_and_only_below_our_folders() -> None:
    text = "docs/no.md `python export/build.py` `/models/x` `photos/a`\n```\nls deploy/*.yml\n```\n"
    assert paths_in(text) == {"export/build.py", "deploy/*.yml"}
