"""Notifications: report the result of a stage to commands and webhooks, which cannot change the result."""
