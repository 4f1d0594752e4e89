"""Templates in the house style: those of one's own, frame.html that they extend, and look.css."""

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined

KIT = PackageLoader("nyquist.companion", "page/kit")


def page_templates(own: BaseLoader) -> Environment:
    """Return the templates: everything that is written into a page is escaped.

    Args:
        own: of the caller; the kit's are found where it has none of the name.
    """
    return Environment(
        loader=ChoiceLoader([own, KIT]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
