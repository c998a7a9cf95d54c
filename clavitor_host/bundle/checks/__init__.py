"""What `verify` checks, one subject a module. Every check runs and reports every fault it finds."""
