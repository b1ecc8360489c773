"""The stages of the runbook as functions: what the tasks call, and what any other program may call.

Each takes the Settings and returns a record, also of a negative verdict. Mistakes are raised as UsageError, another
run's lock as LockHeld, what could not be carried out as StageFailed. ``emit`` is told what happens meanwhile.

Stages that end in an occasion send the notices about it and wait for them; who gives ``notices`` waits for those.
No stage installs signal handlers, but for moments that a signal must not cut in two: Ctrl-C is KeyboardInterrupt here.
"""
