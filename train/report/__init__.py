"""The page about a run and the pictures of its answers: what was trained on what, how it went, what it answers now."""
