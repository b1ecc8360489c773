"""Capture and restore SQLite databases while other processes use them."""
