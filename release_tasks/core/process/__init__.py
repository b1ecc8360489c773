"""Run the operator's shell commands with a timeout and a log, and stop every process that they start."""
