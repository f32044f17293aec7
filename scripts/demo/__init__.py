"""What the demo draws and asks."""
