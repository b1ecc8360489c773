"""Approval of the senders of direct messages: policy, store, sender ids."""
