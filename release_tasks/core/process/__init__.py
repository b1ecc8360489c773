"""Shell commands of an operator: watched, timed, logged, and cleaned up with everything they start."""
