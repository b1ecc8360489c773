"""Who is told how a stage ended: a command or a webhook, which can change nothing about it."""
