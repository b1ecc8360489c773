"""The HTML page of a release: its content (``page``, with a module for each section) and its rendering (``render``)."""
