"""Plugins, the code of other packages: found by name, and asset kinds run in a process of their own."""
