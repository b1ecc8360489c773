"""Stage 3, rollback: restore all assets of a verified snapshot, or none of them."""
