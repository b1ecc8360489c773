"""Drill: rehearse a rollback by a test restore of a snapshot in a scratch folder, which is removed afterwards."""
