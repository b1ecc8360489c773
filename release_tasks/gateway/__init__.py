"""The embedded reference gateway: a small, real service for a release to act on."""
