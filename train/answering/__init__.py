"""Answers of a model: the questions about one clip behind one copy of it, decoded together."""
