"""Data files of all formats -> conversations."""
