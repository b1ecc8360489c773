"""A rehearsal of the rollback: a snapshot restored into a scratch folder, looked at, and taken away again."""
