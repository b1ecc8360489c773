"""Code that every stage uses: durable writes, the lock, digests, canonical JSON, redaction."""
