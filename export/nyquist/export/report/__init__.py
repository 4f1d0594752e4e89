"""The build report: what was measured of each model, as pages that open from a file."""
