"""Stage 1: the gates, each a named check, and the engine that runs them side by side."""
