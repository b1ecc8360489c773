"""SQLite databases, captured and restored while other processes use them."""
