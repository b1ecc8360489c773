"""Stage 3: the state comes back whole, verified, or not at all."""
