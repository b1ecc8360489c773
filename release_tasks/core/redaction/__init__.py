"""The search for secrets in text: what is known by value, by name and by format."""
