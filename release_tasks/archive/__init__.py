"""Snapshots: capture, the catalogue that finds and keeps them, and their verification."""
