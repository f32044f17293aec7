"""A recipe -> the memory and time that it will take: its own step, run on tensors that have shapes and no numbers."""
