"""A picture or clip -> its frames as upright RGB."""
