"""What the companion's pages and the build report share: words, pictures, frame and look."""

REPORT_FOLDER = "report"
"""Of a model repository, for the pages that the build writes and the companion shows."""
