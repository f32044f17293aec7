"""Rows -> the tensors of a forward pass, and the processes that make them."""
