"""What an operator types: one module per task collection, and everything that knows Invoke."""
