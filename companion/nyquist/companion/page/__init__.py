"""What a browser sees of the companion: record -> views and charts -> templates -> routes."""

REPORT_FOLDER = "report"
"""Of a model repository, for the pages that the build writes and the companion shows."""
