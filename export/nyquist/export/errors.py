"""Why a model is not published."""


class BuildError(Exception):
    """A model cannot be published; the previous artifact stays."""


class ExportError(BuildError):
    """The exporter failed, or returned something other than it was asked for."""


class PrecisionError(BuildError):
    """A graph cannot be had in this precision; the message says why."""


class GateMissed(BuildError):
    """A figure of a model misses its limit."""
