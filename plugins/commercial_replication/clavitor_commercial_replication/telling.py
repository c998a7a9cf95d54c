"""What a comparison and a promotion came to, told to whoever runs the command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clavitor_commercial_replication.verify import KINDS
from clavitor_commercial_replication.wording import previewed
from clavitor_commercial_replication.words import are, entries, writes
from clavitor_host.api import terminal

if TYPE_CHECKING:
    from clavitor_commercial_replication.models import Version
    from clavitor_commercial_replication.promotion import Preview
    from clavitor_commercial_replication.verify import Comparison, Repaired

REFILLED = {
    True: "Both POPs are equal.",
    False: "Both POPs are not equal yet: compare them with `clavitor replication verify` on the primary.",
    None: "Whether both are equal cannot be said yet: the primary has writes on their way. See `replication status`.",
}
"""Whether both are equal after a re-seed."""


def tell_preview(preview: Preview) -> None:
    """Write what a promotion would mean."""
    terminal.facts(previewed(preview))
    for text in (*preview.obstacles, *preview.notes):
        print(f"- {text}")


def confirm_discard(found: Comparison, *, yes: bool) -> None:
    """Show what the backup would lose, and ask."""
    lost = [one for one in found.differences if one.kind in ("newer", "extra")]
    for one in lost:
        terminal.note(f"{one.entry_id}: {KINDS[one.kind]} (here {_shown(one.ours)}, backup {_shown(one.theirs)})")
    terminal.confirm(f"Give up {writes(len(lost))} that may be all there is?", yes=yes or not lost)


def verified(found: Comparison, repaired: Repaired | None, after: Comparison, *, well: bool) -> dict[str, Any]:
    """Return what a comparison came to, for JSON. after: the one after the repair. well: nothing is wrong now."""
    return {
        "equal": well,
        "backup": after.pop,
        "unexplained": after.unexplained,
        "waiting": after.waiting,
        "quarantined": after.quarantined,
        "differences": [
            {"entry_id": one.entry_id, "kind": one.kind, "here": _numbers(one.ours), "backup": _numbers(one.theirs)}
            for one in found.differences
        ],
        "repaired": None if repaired is None else repaired._asdict(),
        "left": len(after.differences),
    }


def tell_verified(found: Comparison, repaired: Repaired | None, after: Comparison, *, well: bool) -> None:
    """Write the same for people."""
    if found.differences:
        rows = [(one.entry_id, KINDS[one.kind], _shown(one.ours), _shown(one.theirs)) for one in found.differences]
        terminal.table(("ENTRY", "FOUND", "HERE", "BACKUP"), rows)
    if repaired is not None:
        print(
            f"Sent again: {len(repaired.resent)}. Written anew: {len(repaired.rewritten)}. "
            f"Removed from the backup: {len(repaired.removed)}."
        )
        if repaired.left:
            print(
                f"Left alone: {len(repaired.left)}. The backup has writes that are not here; perhaps the only copy. "
                "--repair --discard gives them up."
            )
    if after.quarantined:
        print(f"Refused by the backup: {after.quarantined}. See `clavitor replication unreplicated`.")
    if after.waiting:
        print(f"On their way to the backup: {after.waiting}.")
    print("Both POPs are equal." if well and not after.waiting else _unequal(after, well=well))


def _unequal(after: Comparison, *, well: bool) -> str:
    if well:
        return "Both POPs are equal, but for what is on its way."
    count = len(after.differences)
    if after.unexplained and not count:
        return (
            f"Every entry is the same, but {after.unexplained} of 256 hashes {are(after.unexplained)} not: one POP "
            "counted wrong. --repair counts anew here; `clavitor replication reseed` does at the backup."
        )
    if count:
        return f"Both POPs are not equal: {entries(count)} {'differs' if count == 1 else 'differ'}."
    return "The backup does not have everything."


def _numbers(version: Version | None) -> dict[str, int] | None:
    return None if version is None else {"epoch": version.epoch, "rev": version.rev}


def _shown(version: Version | None) -> str:
    return "-" if version is None else f"{version.epoch}/{version.rev}"
