"""Network -> checked, judged, documented artifact in a model repository."""
