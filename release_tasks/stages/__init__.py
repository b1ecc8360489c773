"""The stages of the runbook as functions, for the tasks and for other programs."""
