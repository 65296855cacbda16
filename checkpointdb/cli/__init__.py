"""The command `ckpt`: a module for each command, and what they are made of."""

from .accept import accept_command
from .adopt import adopt_command
from .backup import backup_command
from .compact import compact_command
from .demo import demo_command
from .doctor import doctor_command
from .export import export_command
from .forget import forget_command
from .group import cli
from .head import head_command
from .inspect import inspect_command
from .merge import merge_command
from .plan import plan_command
from .proxy import proxy_command
from .pull import pull_command
from .push import push_command
from .report import report_command
from .run import run_command
from .salvage import salvage_command
from .verify import verify_command
from .watch import watch_command
from .why import why_command

for command in (
    accept_command, adopt_command, backup_command, compact_command, demo_command, doctor_command,
    export_command, forget_command, head_command, inspect_command, merge_command, plan_command,
    proxy_command, pull_command, push_command, report_command,
    run_command, salvage_command, verify_command, watch_command, why_command,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Run the command line; the entry point of `ckpt`."""
    cli(prog_name="ckpt")


__all__ = ["cli", "main"]
