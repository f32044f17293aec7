"""The page that tells strangers of a trained model: what it is, how it was made, and code that asks it."""
