"""Output for people and other programs: one module for each format."""
