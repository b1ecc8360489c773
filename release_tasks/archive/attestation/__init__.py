"""What lies beside each manifest: an in-toto Statement on the release, signed where a key is configured."""
