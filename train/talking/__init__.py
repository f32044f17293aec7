"""A conversation with a model, whose keys and values are kept from turn to turn."""
