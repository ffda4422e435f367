"""Who calls, and whether they may."""

import hashlib
import hmac
import os
import time

from accounts import batch_tokens
from accounts.batch_tokens import BatchTicket
from accounts.choices import Scope
from accounts.networks import is_within
from accounts.services import hash_secret, prefix_of
from gateway import errors
from gateway.directory import Directory, Key, SourceAway

MOST_PROVEN = 100_000
_PROCESS_KEY = os.urandom(32)
_proven: dict[str, tuple[bytes, bytes]] = {}  # by prefix: the stored hash, and the quicker one

HELP = "Make one in the console under API keys, and send it as `Authorization: Bearer sk-af-...`."


async def authenticate(header: bytes | None, *, directory: Directory, address: str = "") -> Key:
    """The live key behind an Authorization header, sent from `address`.

    Raises ApiError: 401, 403 or 503.
    """
    if not header:
        raise errors.unauthenticated(f"You did not send an API key. {HELP}")
    word, _, secret = header.decode("latin-1").partition(" ")
    secret = secret.strip()
    prefix = prefix_of(secret) if word.lower() == "bearer" else ""
    if not prefix:
        raise errors.unauthenticated(f"This is not an API key of this platform. {HELP}")
    key = directory.find_key(prefix)
    if key is None:
        try:
            key = await directory.look_up_key(prefix)
        except SourceAway:
            raise errors.unavailable(
                "This API key cannot be checked at the moment.", code="keys_unavailable"
            ) from None
    if not _is_secret_of(key, prefix, secret) or key is None:
        raise errors.unauthenticated(f"This API key is unknown. {HELP}")
    check_standing(key)
    if key.allowed_networks and not is_within(address, key.allowed_networks):
        raise errors.forbidden(
            f"This API key may not be used from {address or 'an unknown address'}.",
            code="address_not_allowed",
        )
    return key


async def authenticate_line(header: bytes, *, directory: Directory) -> tuple[Key, BatchTicket]:
    """The key that made a batch, and which of its lines control sends. Raises ApiError."""
    token = header.decode("latin-1").partition(" ")[2].strip()
    ticket = batch_tokens.read(token, now=time.time())
    if ticket is None:
        raise errors.unauthenticated("This is no line of a batch, or it was signed too long ago.")
    key = directory.find_key(ticket.key_prefix)
    if key is None:
        try:
            key = await directory.look_up_key(ticket.key_prefix)
        except SourceAway:
            raise errors.unavailable(
                "The batch's API key cannot be checked at the moment.", code="keys_unavailable"
            ) from None
    if key is None:
        raise errors.unauthenticated("The API key that made this batch is gone.")
    check_standing(key)
    return key, ticket


def _is_secret_of(key: Key | None, prefix: str, secret: str) -> bool:
    """Compares in constant time, and an unknown prefix no quicker than a known one.

    A secret that was found right is remembered by a quicker hash, keyed with what only this process
    knows: the platform's own costs as much as all else that is done to let a request in.
    """
    quick = hashlib.blake2b(secret.encode(), digest_size=32, key=_PROCESS_KEY).digest()
    expected = key.secret_hash if key is not None else bytes(32)
    known, proof = _proven.get(prefix, (b"", b""))
    if known == expected and hmac.compare_digest(proof, quick):
        return key is not None
    is_same = hmac.compare_digest(expected, hash_secret(secret))
    if key is None or not is_same:
        return False
    if len(_proven) >= MOST_PROVEN:
        _proven.clear()
    _proven[prefix] = (expected, quick)
    return True


def check_standing(key: Key) -> None:
    """Whether a key that was once let in still is. Raises ApiError: 401 or 403."""
    if key.is_revoked:
        raise errors.unauthenticated(f"This API key was revoked. {HELP}")
    if key.expires_at is not None and key.expires_at <= time.time():
        raise errors.unauthenticated(f"This API key has expired. {HELP}")
    if key.is_suspended:
        raise errors.forbidden(
            "This organization is suspended: ask the platform's operators.",
            code="organization_suspended",
        )
    if Scope.INFERENCE not in key.scopes:
        raise errors.forbidden(
            "This API key was not made for inference: use one with the scope `inference`.",
            code="missing_scope",
        )


def check_model(key: Key, name: str) -> None:
    """Raises ApiError (403) where the key may not use the model."""
    if not may_use(key, name):
        raise errors.forbidden(
            f"This API key may not use the model {name!r}.",
            code="model_not_allowed",
            param="model",
        )


def may_use(key: Key, model_name: str) -> bool:
    """Whether the key's list of models, if it has one, has this one."""
    return not key.allowed_models or model_name in key.allowed_models
