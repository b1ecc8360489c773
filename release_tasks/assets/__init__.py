"""The kinds of state that a release captures and a rollback restores, one module each."""
