"""A project of root next to files of another user, and a process of that user that exchanges names at any moment."""
