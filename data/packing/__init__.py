"""Samples -> groups behind one prefix, rows of groups, and the rows of each rank."""
