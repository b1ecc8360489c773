"""A project of root beside files of another user, and a process of that user that exchanges names at any moment."""
