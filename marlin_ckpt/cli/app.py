"""The commands, registered."""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer

from marlin_ckpt.cli import output
from marlin_ckpt.cli.commands.change import average, clean, export
from marlin_ckpt.cli.commands.check import salvage, verify
from marlin_ckpt.cli.commands.look import diff, env, latest, list_, log, report, show
from marlin_ckpt.cli.commands.run import advise, config, init, prove, train
from marlin_ckpt.cli.help import Commands
from marlin_ckpt.version import __version__

app = typer.Typer(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Checkpoints for PyTorch that survive kills and full disks.",
    epilog="Exit codes: 0 done, 1 failed (diff: they differ), 2 usage or configuration, or train would write "
    "over another run, 3 bad content (prove-resume: it differs; salvage: something is lost), 4 no checkpoint "
    "found, 5 directory in use, 130 interrupted, 141 the reader of the output has gone, 143 terminated.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        output.data(f"marlin-ckpt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    del version


class CarriedError(Exception):
    """Carries an error, its argument, past Typer, which handles broken pipes and Ctrl-C in its own way."""


def _carrying(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except typer.TyperException:
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise CarriedError(error) from error

    return run


app.command("train", epilog=train.EXAMPLE)(_carrying(train.train))
app.command("prove-resume", epilog=prove.EXAMPLE)(_carrying(prove.prove_resume))
app.command("advise", epilog=advise.EXAMPLE)(_carrying(advise.advise))
app.command("init", epilog=init.EXAMPLE)(_carrying(init.init))
configurations = typer.Typer(help=config.SUMMARY, rich_markup_mode=None)
configurations.command("show", epilog=config.SHOW_EXAMPLE)(_carrying(config.show))
configurations.command("schema", epilog=config.SCHEMA_EXAMPLE)(_carrying(config.schema))
app.add_typer(configurations, name="config")
app.command("list", epilog=list_.EXAMPLE)(_carrying(list_.list_))
app.command("latest", epilog=latest.EXAMPLE)(_carrying(latest.latest))
app.command("log", epilog=log.EXAMPLE)(_carrying(log.log))
app.command("show", epilog=show.EXAMPLE)(_carrying(show.show))
app.command("diff", epilog=diff.EXAMPLE)(_carrying(diff.diff))
app.command("report", epilog=report.EXAMPLE)(_carrying(report.report))
app.command("env", epilog=env.EXAMPLE)(_carrying(env.env))
app.command("verify", epilog=verify.EXAMPLE)(_carrying(verify.verify))
app.command("salvage", epilog=salvage.EXAMPLE)(_carrying(salvage.salvage))
app.command("export", epilog=export.EXAMPLE)(_carrying(export.export))
app.command("average", epilog=average.EXAMPLE)(_carrying(average.average))
app.command("clean", epilog=clean.EXAMPLE)(_carrying(clean.clean))


def names() -> list[str]:
    """The commands in the order of the help, those of a group behind all others, as in `config show`."""
    groups = [(f"{one.name} ", one.typer_instance) for one in app.registered_groups]
    found = [(begin, one) for begin, each in [("", app), *groups] if each for one in each.registered_commands]
    return [f"{begin}{one.name}" for begin, one in found]
