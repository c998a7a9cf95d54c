"""The database: SQLite or PostgreSQL, transactions, group commit, leases, migrations, backup."""
