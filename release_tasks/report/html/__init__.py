"""A release as one page: what is told (``page``), where it comes from (``gather``), how it looks (``render``)."""
