"""Stage 1, preflight: the gates, each a named check, and the engine that runs them in parallel."""
