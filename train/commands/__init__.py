"""The command `reeltune`: one file a command, which imports what does the work when it is used."""
