"""The tasks: one module for each collection, and all code that uses Invoke."""
