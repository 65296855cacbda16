"""`ckpt proxy`: save what a provider answers, whatever program asks."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
from typing import Any
from urllib.parse import urlsplit

import click

from ..integrations.peers import Door, is_loopback, knows_peers
from ..integrations.prices import Prices
from .completion import files, versions
from .display import note, safe, shown
from .group import VERSION, Failure

_NEEDED = ("httpx2", "starlette", "uvicorn")


@click.command("proxy", short_help="Save what a provider answers to any program.")
@click.argument("store", shell_complete=files)
@click.option("--to", "to", required=True, metavar="URL", help="The provider's address.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8787, show_default=True,
    help="The port to listen on; 0 for any that is free.",
)  # fmt: skip
@click.option(
    "--host", default="127.0.0.1", show_default=True,
    help="The address to listen on; one that other machines reach needs --token.",
)  # fmt: skip
@click.option(
    "--path", "paths", multiple=True, metavar="PATH",
    help="Save answers to POST under this path, too: /v1/rerank. Can be repeated.",
)  # fmt: skip
@click.option(
    "--version", type=VERSION, default="1", show_default=True, shell_complete=versions,
    help="Of the saved answers; under another version, calls are made again.",
)  # fmt: skip
@click.option(
    "--max-cost", type=float, metavar="DOLLARS",
    help="Answer 402 to what is not saved once the store's steps have cost that much.",
)  # fmt: skip
@click.option(
    "--cost-per-token", type=float, metavar="DOLLARS", help="What each token costs, of any model."
)
@click.option(
    "--prices", type=click.File("rb"), metavar="FILE",
    help="JSON: by model, dollars for a million tokens of input, output and cached.",
)  # fmt: skip
@click.option("--read-only", is_flag=True, help="Ask nobody: answer 404 to what is not saved.")
@click.option("--record", is_flag=True, help="Ask again, and replace what is saved.")
@click.option(
    "--token", envvar="CKPT_PROXY_TOKEN", metavar="TEXT",
    help="Let in any user who shows it; better given as CKPT_PROXY_TOKEN.",
)  # fmt: skip
@click.option(
    "--max-body", type=click.FloatRange(0.001), default=64, show_default=True, metavar="MB",
    help="The largest body of a request whose answer is saved.",
)  # fmt: skip
def proxy_command(
    store: str, to: str, port: int, host: str, paths: tuple[str, ...], version: int | str,
    max_cost: float | None, cost_per_token: float | None, prices: Any, read_only: bool,
    record: bool, token: str | None, max_body: float,
) -> None:  # fmt: skip
    """Pass requests on to a provider, and save in STORE what it answers.

    Set OPENAI_BASE_URL, or your tool's own base address, to the address that it prints; nothing
    else changes. Equal requests are asked and paid for once, even if a client leaves or is killed
    in the middle. With /run/NAME before the path the n-th equal request is a sample of its own.

    \b
    Examples:
      ckpt proxy calls.ckpt --to https://api.openai.com
      ckpt proxy calls.ckpt --to https://api.anthropic.com --port 8788 --prices prices.json
    """  # noqa: D301 - click wants a real \b before lines it must not join
    _check_extra()
    _check_address(to)
    _check_door(host, token)
    if read_only and record:
        raise click.UsageError("--read-only asks nobody, and --record asks again: give one of them")
    table = _prices(cost_per_token, prices)
    if max_cost is not None and table is None:
        raise click.UsageError("--max-cost needs --cost-per-token or --prices")
    if max_cost is not None and not 0 <= max_cost < math.inf:
        raise click.UsageError(f"--max-cost must be a number of dollars, got {max_cost}")
    from ..integrations.httpx import Checkpointed

    try:
        transport = Checkpointed(
            store, version=version, paths=paths, prices=table, max_cost=max_cost, record=record,
            replay=read_only,
        )  # fmt: skip
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    _serve(to, host, port, transport, Door(token, (host,)), int(max_body * 1e6))


def _serve(to: str, host: str, port: int, transport: Any, door: Door, most: int) -> None:
    from ..integrations import proxy

    path = transport.calls.store.path  # or say now that it cannot be opened
    try:
        listening = proxy.listen(host, port)
    except OSError as error:
        transport.close()
        raise Failure(f"cannot listen on {host} port {port}: {error.strerror}") from error
    name = f"[{host}]" if ":" in host else host
    here = f"http://{name}:{listening.getsockname()[1]}"
    note(f"{here}/v1 passes on to {safe(to)} and saves in {safe(shown(path))}; Ctrl-C ends it")
    try:
        asyncio.run(proxy.serve(listening, to, transport, door, most))
    finally:
        listening.close()
        transport.close()


def _check_extra() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Failure(f"no module {missing[0]}: pip install 'checkpointdb[proxy]'")


def _check_address(to: str) -> None:
    url = urlsplit(to)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.username:
        raise click.UsageError(f"--to must be an address such as https://api.openai.com, got {to}")


def _check_door(host: str, token: str | None) -> None:
    if token is not None and len(token) < 8:
        raise click.UsageError("a token has at least 8 characters: openssl rand -hex 16 makes one")
    if token is not None:
        return
    if not is_loopback(host):
        raise click.UsageError(f"other machines reach {host}: give --token")
    if not knows_peers() or not hasattr(os, "getuid"):
        raise click.UsageError(
            "this system does not say whose a connection is: give --token, so that other "
            "users do not get your answers"
        )


def _prices(cost_per_token: float | None, file: Any) -> Prices | None:
    if cost_per_token is not None and file is not None:
        raise click.UsageError("give --cost-per-token or --prices, not both")
    try:
        if file is not None:
            return Prices.read(file.read())
        return None if cost_per_token is None else Prices.a_token(cost_per_token)
    except ValueError as error:
        where = file.name if file is not None else "--cost-per-token"
        raise click.UsageError(f"{where}: {error}") from error
