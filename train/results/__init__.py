"""The result of training: loaded, asked, scored and sent to the hub."""
