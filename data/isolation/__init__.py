"""Processes for work that may hang, crash or eat all memory, and the signals that they ignore."""
