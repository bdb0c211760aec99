"""A claim: a plan without a job, by which a command that needs no job has the archive to itself while it commits.

It lies where the plan of a job lies, so only one of two commands at once can put it there. It is nobody's work: what a
killed command has left of it is in nobody's way, any command may take its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Iterator

from tsae import archive as ar
from tsae.errors import BusyError, InputError
from tsae.jobs.job_folder import read_or_none
from tsae.paths import ConflictError

WAIT_S = 60.0
"""How long a claim waits for the end of a job: one that commits every few seconds leaves gaps, and others take longer."""

LOOK_S = 0.05
"""Time between looks for a gap."""


class LostError(Exception):
    """The archive is no longer as it was when work on it began; it has to begin anew."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """The right to commit, as long as no other command has taken its place.

    Attributes:
        archive: Where.
        text: The bytes of the plan, which tell it from any other.
    """

    archive: ar.Folder
    text: bytes

    def is_held(self) -> bool:
        """Whether no other command has taken its place.

        Raises:
            InputError: if that cannot be told.
        """
        return read_or_none(self.archive, ar.PLAN_FILE) == self.text

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """While the block runs, no other command can take its place; on a remote store that is only checked before.

        Raises:
            InputError: if another command keeps the lock.
            LostError: if another command has taken its place.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.archive.locked(ar.PLAN_FILE))
            except OSError as error:
                if not self.is_held():
                    raise LostError from error
                raise InputError(f"{self.archive.path}: cannot be locked ({error}); run this again") from error
            if not self.is_held():
                raise LostError
            yield

    def release(self) -> None:
        """Removes it, as far as it is still there and that is possible."""
        with contextlib.suppress(OSError, InputError, LostError), self.turn():
            self.archive.remove([ar.PLAN_FILE])


def is_claim(plan: bytes | None) -> bool:
    """Whether a plan is only a claim, which is nobody's work."""
    try:
        return plan is not None and "claim" in json.loads(plan)
    except (ValueError, TypeError, RecursionError):
        return False


def holds_job(archive: ar.Folder) -> bool:
    """Whether a job is at work on an archive, or was killed; a claim is none.

    Raises:
        InputError: if that cannot be told.
    """
    plan = read_or_none(archive, ar.PLAN_FILE)
    return plan is not None and not is_claim(plan)


def wait_for_gap(archive: ar.Folder) -> bytes | None:
    """Waits until no job is at work on an archive.

    Returns:
        The claim that is there instead; None if there is none.

    Raises:
        BusyError: if a job still is after `WAIT_S`.
        InputError: if that cannot be told.
    """
    deadline = time.monotonic() + WAIT_S
    while (plan := read_or_none(archive, ar.PLAN_FILE)) is not None and not is_claim(plan):
        if time.monotonic() > deadline:
            remedy = "wait for it, or if it was killed finish it with tsae compress --resume"
            raise BusyError(f"{archive.path}: for {WAIT_S:.0f} s another command has been at work there; {remedy}")
        time.sleep(LOOK_S)
    return plan


def take_claim(archive: ar.Folder, command: str) -> Claim:
    """Takes the right to commit, in a gap between jobs.

    Args:
        archive: Of what.
        command: Who asks, for people who look.

    Raises:
        BusyError: if there is no gap for `WAIT_S`.
        InputError: if the claim cannot be written.
    """
    claim = Claim(archive, json.dumps({"claim": command, "token": secrets.token_hex(8)}).encode())
    deadline = time.monotonic() + WAIT_S
    while True:
        before = wait_for_gap(archive)
        try:
            archive.replace(ar.PLAN_FILE, claim.text, expected=before)
            return claim
        except (ConflictError, FileNotFoundError) as error:  # another command was faster, or has just tidied up
            if time.monotonic() > deadline:
                raise BusyError(f"{archive.path}: other commands are at work there all the time; run this later") from error
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{archive.path}: cannot be written ({reason}); check its permissions") from error
