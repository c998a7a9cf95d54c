"""The community edition: four hooks, no network, nothing of the commercial one (editions.md section 1)."""

from __future__ import annotations

import json
import logging
from io import StringIO
from pathlib import Path
from typing import Any

import clavitor_community
from clavitor_community.plugin import plugin
from loguru import logger

from clavitor_host import log
from clavitor_host.api import Request
from clavitor_host.plugins.dispatch import Hooks
from clavitor_host.plugins.models import Alert, FrozenPlugin
from clavitor_host.plugins.registry import PluginRegistry

NOTHING: Any = None


def hooks() -> Hooks:
    return Hooks(PluginRegistry([FrozenPlugin("clavitor-community", plugin)], "community"))


def test_its_name_is_community() -> None:
    assert hooks().registry.edition == "community"


def test_telemetry_is_off() -> None:
    assert hooks().first("is_telemetry_enabled", host=NOTHING) is False


async def test_an_alert_is_one_structured_line_on_stderr() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    sink = StringIO()
    log.setup(json_lines=True, sink=sink)
    alert = Alert("disk_full", "The disk is {full}.\n", {"free": 0, "path": "/data"}, id="a1", at=5)
    await hooks().broadcast("alert_operator", host=NOTHING, alert=alert)
    root.handlers = handlers
    root.setLevel(level)
    logger.remove()
    (line,) = sink.getvalue().splitlines()
    record = json.loads(line)
    assert record["level"] == "WARNING"
    assert record["message"] == "The disk is {full}.\n"
    assert (record["alert"], record["alert_id"], record["at"]) == ("disk_full", "a1", 5)
    assert record["details"] == {"free": 0, "path": "/data"}


async def no_body() -> bytes:
    return b""


def request(method: str) -> Request:
    return Request(
        host=NOTHING,
        method=method,
        path="/nowhere",
        raw_query=b"",
        headers=[],
        client="127.0.0.1",
        scheme="http",
        id="r1",
        body=no_body,
    )


async def test_what_no_route_matches_is_an_immediate_404() -> None:
    reply = await hooks().first_async("not_found_handler", host=NOTHING, request=request("GET"))
    assert reply.status == 404
    assert reply.content_type == "application/problem+json"
    assert reply.stream is None
    assert json.loads(reply.body)["code"] == "not_found"


async def test_a_method_that_no_route_takes_is_an_immediate_405() -> None:
    asked = request("PATCH")
    asked.allowed = ("DELETE", "GET")
    reply = await hooks().first_async("not_found_handler", host=NOTHING, request=asked)
    assert (reply.status, reply.headers["Allow"]) == (405, "DELETE, GET")
    assert json.loads(reply.body)["status"] == 405


def test_its_files_never_name_the_commercial_answer() -> None:
    word = "tip rat".replace(" ", "")[::-1]  # so that neither this file nor its bytecode has it
    folder = Path(clavitor_community.__file__).parent.parent
    for file in folder.rglob("*"):
        if file.is_file():
            assert word not in file.read_bytes().lower().decode("latin-1"), file
