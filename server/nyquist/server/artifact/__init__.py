"""What lies in a model repository, as the server, the export and the companion read it."""
