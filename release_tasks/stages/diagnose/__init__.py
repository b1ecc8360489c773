"""Stage 4, diagnose: read every signal, explain it, and name the next command."""
