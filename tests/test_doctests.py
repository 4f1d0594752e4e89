"""The examples in the docstrings of what users import."""

import doctest
import importlib
import sys

import pytest

PACKAGES = (
    "nyquist.models",
    "nyquist.models.layers",
    "nyquist.models.networks",
    "nyquist.models.analysis",
    "nyquist.companion.measures",
    "nyquist.client",
)


def public_modules() -> list[str]:
    """The packages, and the modules that define what they export."""
    modules = dict.fromkeys(PACKAGES)
    for package in map(importlib.import_module, PACKAGES):
        exported = [getattr(package, name) for name in package.__all__]
        modules |= dict.fromkeys(thing.__module__ for thing in exported)
    return list(modules)


@pytest.mark.parametrize("name", public_modules())
def test_a_public_module_shows_an_example_that_holds(name: str) -> None:
    module = importlib.import_module(name)
    examples = doctest.DocTestParser().get_doctest(
        module.__doc__ or "", dict(vars(module)), name, module.__file__, 0
    )
    assert examples.examples, f"{name} has no example in its docstring"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(examples, out=sys.stdout.write).failed == 0


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_has_no_other_names_than_it_exports(name: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = importlib.import_module(name).no_such_name
