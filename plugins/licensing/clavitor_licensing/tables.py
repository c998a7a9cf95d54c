"""The plugin's tables. Times in µs since the epoch."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

license_table = sa.Table(
    "license",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("license_id", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("installed_at", sa.BigInteger, nullable=False),
    sa.Column("installed_by", sa.Text, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("last_validated_at", sa.BigInteger, nullable=False),
)
"""The license that is installed (seed section 6.1): at most one row. Only the token is believed, and only after it was
validated; the other columns are for people who look into the database."""

state_table = sa.Table(
    "license_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("clock_stopped", sa.Boolean, nullable=False),
    sa.Column("failed_code", sa.Text),
    sa.Column("rejected_code", sa.Text),
    sa.Column("rejected_message", sa.Text),
    sa.Column("rejected_source", sa.Text),
    sa.Column("rejected_at", sa.BigInteger),
    sa.Column("rejected_digest", sa.Text),
    sa.Column("rejected_node", sa.Text),
    sa.Column("boots", sa.Text, nullable=False),
)
"""One row, id 1, about which all processes agree. `version` grows with everything that may change a cap, `reason` says
what that was; each cap check reads it. `seen_at`: the highest time ever seen. `clock_stopped`: licensing stands still
at that time. `failed_code`: why the stored token was refused when it was last validated. `rejected_…`: the token that
was to replace it and was refused, until a token is accepted, the license is removed, or the refusal is forgotten;
`rejected_digest` tells one token from another, `rejected_node` is the node whose configuration names it. `boots`: the
last starts of servers, by their `host.boot_id`, with spaces between them."""
