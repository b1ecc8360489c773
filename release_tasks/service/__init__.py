"""Requests to the running service: health, reliability and version, with time limits and strict parsing."""
