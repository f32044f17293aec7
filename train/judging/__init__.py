"""A language model that judges answers, behind an endpoint that the user names, as in the paper."""
