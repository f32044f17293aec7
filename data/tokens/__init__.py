"""Conversations -> token ids and the spans that are trained."""
