"""The words and bars of a command about itself while it works, for a person at a terminal or a file."""
