"""What is found of a live server: probes, mirrored traffic, their record, verdicts, metrics."""
