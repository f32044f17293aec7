"""Ours against the plain way, case by case; scripts/benchmark.py is the entry."""
