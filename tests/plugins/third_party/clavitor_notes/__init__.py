"""A third party's plugin, as its author would ship it: it imports `clavitor_host.api` and nothing else of ours."""
