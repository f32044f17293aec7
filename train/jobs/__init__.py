"""The work of the commands that no other room does alone, once their options are read."""
