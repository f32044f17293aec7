"""The accuracy of a model while it is trained: its answers to held-out questions, and no trace of them in training."""
