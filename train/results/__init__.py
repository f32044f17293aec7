"""The result of training: loaded, asked, scored, merged and sent to the hub."""
