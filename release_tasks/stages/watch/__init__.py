"""Watch a release after its deploy: take samples of the service, judge them, and roll back at most once."""
