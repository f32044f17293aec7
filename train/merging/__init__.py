"""An adapter and its base -> one model: read a tensor, add in float32, write it, and check the answers at the end."""
