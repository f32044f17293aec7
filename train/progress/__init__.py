"""The words of a run about itself while it goes on: what it will do, how far it is, and how long it will take."""
