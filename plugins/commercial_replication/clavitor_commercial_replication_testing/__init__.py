"""What the tests of replication share."""
