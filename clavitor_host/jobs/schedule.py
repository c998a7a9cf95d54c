"""When a cron job is due, in the server's local time and right across clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

MICROSECONDS = 1_000_000


class ServerZone(tzinfo):
    """The local time of this server, whatever way it is set (TZ variable, /etc/localtime)."""

    def utcoffset(self, when: datetime | None) -> timedelta | None:
        return None if when is None else when.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, when: datetime | None) -> timedelta | None:
        return None

    def tzname(self, when: datetime | None) -> str | None:
        return None if when is None else when.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, when: datetime) -> datetime:
        local = datetime.fromtimestamp(when.replace(tzinfo=UTC).timestamp())
        return local.replace(tzinfo=self)


class Cron:
    """A cron expression (five fields).

    A time that the clock skips in spring runs right after the gap; one that it repeats in autumn runs once,
    unless the expression runs every hour anyway.
    """

    def __init__(self, expression: str, zone: tzinfo | None = None) -> None:
        """Raises `ValueError` for an expression that cannot be read. zone: the server's own when not given."""
        from cronsim import CronSim, CronSimError

        if len(expression.split()) != 5:
            raise ValueError(f"cron expression {expression!r} does not have five fields")
        self._zone = zone or ServerZone()
        self._expression = expression
        try:
            CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(f"cron expression {expression!r}: {error}") from None

    def next_after(self, at: int) -> int | None:
        """Return the first due time after `at` (both µs since the epoch), None when there is none."""
        from cronsim import CronSim

        start = datetime.fromtimestamp(at // MICROSECONDS, UTC).astimezone(self._zone)
        for when in CronSim(self._expression, start):
            due = round(when.timestamp()) * MICROSECONDS
            if due > at:
                return due
        return None
