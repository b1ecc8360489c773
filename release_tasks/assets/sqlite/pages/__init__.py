"""Read and write a live database by page, so that a restore costs what differs and not the size of the database."""
