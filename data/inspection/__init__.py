"""A data set, checked and shown before anything is trained."""
