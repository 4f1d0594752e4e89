"""The models that are served: read from the repository, loaded, asked, mirrored."""
