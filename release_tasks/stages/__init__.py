"""The stages of the runbook as functions: what the tasks call, and what any other program may call."""
