"""Decoded frames and tower features, kept on disk."""
