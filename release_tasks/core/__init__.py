"""Durable writes, the lock, digests, canonical JSON and redaction: what every stage uses."""
