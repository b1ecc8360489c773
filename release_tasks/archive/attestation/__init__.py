"""The statement next to each manifest: an in-toto Statement about the release, signed when a key is configured."""
