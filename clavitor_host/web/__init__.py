"""The web side of the host: the gateway, errors as pages, health, metrics, OpenAPI, the admin pages."""
