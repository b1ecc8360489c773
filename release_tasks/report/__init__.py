"""What people and other programs look at: one module per format."""
