"""Stage 4: read every signal there is, say what it means, and which command comes next."""
