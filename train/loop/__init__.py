"""The training loop: transformers' Trainer over packed rows."""
