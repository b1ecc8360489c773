"""Snapshots and manifests on disk: capture, catalogue, retention, verification, comparison."""
