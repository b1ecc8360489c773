"""A release as one HTML page: what it shows (``page``, with a module for each section) and how (``render``)."""
