"""Durable writes, the lock, digests, canonical JSON and redaction: the ground every stage stands on."""
