"""A YAML file -> one validated description of a run."""
