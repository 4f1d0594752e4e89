"""What a person asks for, on the command line or in a YAML file, as checked specs."""
