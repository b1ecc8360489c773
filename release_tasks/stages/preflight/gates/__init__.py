"""The kinds of gate, one file each."""
