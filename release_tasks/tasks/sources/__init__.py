"""The sources of a configuration: what each file says, line by line, before YAML turns it into values."""

from release_tasks.tasks.sources.files import SourceFile
from release_tasks.tasks.sources.levels import Sources, files_of

__all__ = ["SourceFile", "Sources", "files_of"]
