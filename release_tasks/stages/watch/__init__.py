"""The watch after a deploy: looks at the service, a verdict on them, and at most one rollback."""
