"""The executor that invoke.yaml names: ``tasks: {executor_class: release_tasks.executor.StageExecutor}``."""

from release_tasks.tasks.executor import StageExecutor as StageExecutor
