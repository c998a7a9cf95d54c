"""All routes of identity."""

from clavitor_host.identity import routes_login, routes_me, routes_tokens, routes_users

blueprints = (routes_login.blueprint, routes_me.blueprint, routes_users.blueprint, routes_tokens.blueprint)
