"""The command `mini-chat`: every process of the system starts here.

    mini-chat run [--api N] [--worker M] [--host H] [--port P]    everything on this machine
    mini-chat api [--host H] [--port P]                           one HTTP process
    mini-chat worker                                              one worker process
    mini-chat migrate                                             bring the database schema up to date
    mini-chat demo-provider [--host H] [--port P]                 the scripted OpenAI-compatible provider
    mini-chat config                                              the configuration in force
    mini-chat doctor [--url URL]                                  what is wrong with a deployment
    mini-chat turns list|show|cancel|hand-back                    turns, and how to get them unstuck
    mini-chat outbox list|replay|resolve                          messages that could not be delivered
    mini-chat purge --tenant T [--user U]                         remove all that belongs to a tenant or a user

A configuration that cannot be used is one line on standard error and exit code 2 (`shared.console`). Each command
imports what it needs when it runs, so that a worker loads no HTTP server and the API no provider.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata

from shared.config.command_line import add_parser as add_config_parser
from shared.console import EXIT_CONFIGURATION, EXIT_FAILURE, EXIT_INTERRUPTED, fail
from shared.doctor.command_line import add_parser as add_doctor_parser
from shared.embedded.errors import EngineError
from shared.embedded.ports import LOOPBACK
from shared.outbox.command_line import add_parser as add_outbox_parser
from shared.purge.command_line import add_parser as add_purge_parser
from shared.run.environment import merge_variables, replace_environment, variable_of
from shared.settings import ConfigurationError, Settings, load_settings
from shared.turns.command_line import add_parser as add_turns_parser

_HIGHEST_PORT = 65_535

_OPERATIONS = ("config", "doctor", "turns", "outbox", "purge")
"""The commands with which an operator looks at a system and mends it; each has a package of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "run":
                return _run(options)
            case "api":
                _api(options)
            case "worker":
                _worker()
            case "migrate":
                _migrate()
            case "demo-provider":
                _demo_provider(options)
            case command if command in _OPERATIONS:
                return _operate(command, options)
    except ConfigurationError as error:
        return fail(error, EXIT_CONFIGURATION)
    except EngineError as error:
        return fail(error)
    except KeyboardInterrupt:
        # Of commands that end by themselves; processes that serve take the signal for their drain.
        return fail("interrupted", EXIT_INTERRUPTED)
    return 0


def require_urls(settings: Settings) -> None:
    """
    Raises:
        ConfigurationError: `database.url` or `redis.url` is missing, which only `mini-chat run` can do without.
    """
    urls = {"database.url": settings.database.url, "redis.url": settings.redis.url}
    missing = [key for key, url in urls.items() if url is None]
    if missing:
        variables = " and ".join(variable_of(key) for key in missing)
        raise ConfigurationError(
            f"{' and '.join(missing)}: not set. Set {variables}, or use `mini-chat run`, which starts embedded engines"
        )


def _run(options: argparse.Namespace) -> int:
    from shared.run.supervisor import run

    return run(apis=options.api, workers=options.worker, host=options.host, port=options.port)


def _api(options: argparse.Namespace) -> None:
    # As variables, which win over the file and over a variable that was there before.
    given = {"host": options.host, "port": options.port}
    variables = {variable_of(key): str(value) for key, value in given.items() if value is not None}
    replace_environment(merge_variables(os.environ, variables))
    settings = load_settings()
    require_urls(settings)
    from api.main import run

    run(settings)


def _worker() -> None:
    settings = load_settings()
    require_urls(settings)
    from worker.main import run

    run(settings)


def _migrate() -> None:
    settings = load_settings()
    from shared.db.migrate import migrate

    migrate(settings)


def _demo_provider(options: argparse.Namespace) -> None:
    port = load_settings().demo_provider.port if options.port is None else options.port
    from api.demo_provider.main import run

    try:
        run(host=options.host or LOOPBACK, port=port)
    except ValueError as error:
        raise ConfigurationError(f"--host: {error}") from None


def _operate(command: str, options: argparse.Namespace) -> int:
    run = import_module(f"shared.{command}.commands").run
    try:
        code: int = run(load_settings(), options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough. At exit Python would flush once more, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mini-chat",
        description="Multi-tenant AI chat backend",
        epilog="Exit codes: 0, done and nothing is wrong; 1, something is wrong, was not found or could not be done;"
        " 2, wrong usage or configuration.",
    )
    parser.add_argument("--version", action="version", version=f"mini-chat {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser("run", help="run the whole system on this machine")
    run.add_argument("--api", type=_count, default=1, metavar="N", help="API processes (1)")
    run.add_argument("--worker", type=_count, default=1, metavar="M", help="worker processes (1)")
    api = commands.add_parser("api", help="run one HTTP process")
    commands.add_parser("worker", help="run one worker process")
    commands.add_parser("migrate", help="bring the database schema up to date")
    demo_provider = commands.add_parser("demo-provider", help="run the scripted provider")
    for add_parser in (add_config_parser, add_doctor_parser, add_turns_parser, add_outbox_parser, add_purge_parser):
        add_parser(commands)
    for command in (run, api, demo_provider):
        command.add_argument("--host", help="address to listen on")
        command.add_argument("--port", type=_port, help="port to listen on; 0 takes a free one")
    return parser


def _version() -> str:
    try:
        return metadata.version("mini-chat")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be a number that is not negative")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and {_HIGHEST_PORT}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
