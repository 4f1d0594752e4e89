"""Models that lie elsewhere, brought into a folder here."""
