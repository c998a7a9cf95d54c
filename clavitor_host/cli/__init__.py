"""The command line, one module a command group. Bodies import what they need when they run: starting must be quick."""
