"""Find plugins by name, and run a plugin's asset kind in a separate process."""
