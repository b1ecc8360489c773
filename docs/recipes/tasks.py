"""The tasks of release-tasks, and this project's own deploy."""

from invoke import task

from release_tasks import ns


@task(pre=[ns["release.prepare"]])
def deploy(ctx):
    """Deploy, once the release is ready and its snapshot is taken."""
    ctx.run("./deploy.sh")


ns.add_task(deploy)
