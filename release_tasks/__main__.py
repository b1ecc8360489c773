"""The ``release-tasks`` command, also as ``python -m release_tasks``."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> None:
    """Run the tasks of the command line, and exit."""
    # Until the tasks handle signals, Ctrl-C ends the process as SIGTERM does, without a traceback of an import.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from release_tasks.tasks.program import main as run

    run()


if __name__ == "__main__":
    main()
