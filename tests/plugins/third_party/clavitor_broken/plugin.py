"""An optional plugin that fails when it starts, after its routes are on the app."""

from collections.abc import Sequence

from quart import Blueprint

from clavitor_host.api import Plugin, hookimpl


class BrokenPlugin(Plugin):
    name = "broken"
    version = "0.1.0"

    @hookimpl
    def blueprints(self) -> Sequence[Blueprint]:
        routes = Blueprint("broken", __name__)

        @routes.get("/api/v1/broken")
        async def broken() -> str:
            return "this must never be reached"

        return [routes]

    @hookimpl
    async def startup(self) -> None:
        raise RuntimeError("no luck today")


plugin = BrokenPlugin
