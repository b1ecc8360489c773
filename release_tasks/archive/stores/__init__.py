"""Storage for snapshots, one module for each kind of store."""
